/* For LD_PRELOAD: the disk below the journal's segments, which fails on request.
 *
 * FAILING_DISK names a file that says what fails: "pwrite 1" every pwrite, "fdatasync 3" every third fdatasync, nothing where
 * it is empty or missing; "fdatasync 0" that an fdatasync does not return while it says so, "slow 300" that each takes 300 ms
 * longer. FAILING_DISK_LOG names a file that gets a line for each call on a segment: the call, "ok" or "failed", and the
 * segment's path.
 *
 * A failure does what a disk's does. A write leaves its first half in the file. An fdatasync loses what was written since the
 * last one that succeeded, and the next one knows nothing of it any more.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES 1024

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* What was written to each file since its last fdatasync, [from, until). */
static struct {
    off64_t from, until;
} unsynced[FILES];
static long calls[2];

static ssize_t real_pwrite(int fd, const void *bytes, size_t count, off64_t offset) {
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next) next = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return next(fd, bytes, count, offset);
}

static int real_fdatasync(int fd) {
    static int (*next)(int);
    if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return next(fd);
}

static int is_segment(int fd, char path[PATH_MAX]) {
    static const char suffix[] = ".segment";
    char link[64];
    if (fd < 0 || fd >= FILES) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < (ssize_t)sizeof suffix) return 0;
    path[length] = 0;
    return strcmp(path + length - (sizeof suffix - 1), suffix) == 0;
}

/* Every how many calls of this name one fails; -1 for none. */
static long every(const char *call) {
    char text[64], word[16];
    long number;
    const char *control = getenv("FAILING_DISK");
    int fd = control ? open(control, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[length > 0 ? length : 0] = 0;
    return sscanf(text, "%15s %ld", word, &number) == 2 && strcmp(word, call) == 0 ? number : -1;
}

/* Whether this call is one that fails; `count` has the calls of its name. */
static int is_to_fail(const char *call, long *count) {
    long number;
    while ((number = every(call)) == 0) usleep(10000);
    return number > 0 && ++*count % number == 0;
}

static void note(const char *call, int failed, const char *path) {
    char line[PATH_MAX + 64];
    const char *log = getenv("FAILING_DISK_LOG");
    int fd = log ? open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return;
    int length = snprintf(line, sizeof line, "%s %s %s\n", call, failed ? "failed" : "ok", path);
    if (write(fd, line, (size_t)length) != length) abort();
    close(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    char path[PATH_MAX];
    if (!is_segment(fd, path)) return real_pwrite(fd, bytes, count, offset);
    pthread_mutex_lock(&lock);
    int failed = is_to_fail("pwrite", &calls[0]);
    ssize_t written = real_pwrite(fd, bytes, failed ? count / 2 : count, offset);
    if (written > 0) {
        off64_t until = offset + written;
        /* A segment is written from its beginning on: what the file had that was open under this number before is gone. */
        int is_first = offset == 0 || unsynced[fd].from == unsynced[fd].until;
        if (is_first || offset < unsynced[fd].from) unsynced[fd].from = offset;
        if (is_first || until > unsynced[fd].until) unsynced[fd].until = until;
    }
    note("pwrite", failed, path);
    pthread_mutex_unlock(&lock);
    if (!failed) return written;
    errno = EIO;
    return -1;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { return pwrite64(fd, bytes, count, offset); }

int fdatasync(int fd) {
    static const char zeros[4096];
    char path[PATH_MAX];
    if (!is_segment(fd, path)) return real_fdatasync(fd);
    pthread_mutex_lock(&lock);
    int failed = is_to_fail("fdatasync", &calls[1]);
    for (off64_t at = unsynced[fd].from; failed && at < unsynced[fd].until;) {
        off64_t left = unsynced[fd].until - at;
        ssize_t lost = real_pwrite(fd, zeros, left < (off64_t)sizeof zeros ? (size_t)left : sizeof zeros, at);
        if (lost <= 0) abort();
        at += lost;
    }
    unsynced[fd].from = unsynced[fd].until = 0;
    long slow_ms = every("slow");
    if (slow_ms > 0) usleep((useconds_t)slow_ms * 1000);
    int result = failed ? -1 : real_fdatasync(fd);
    note("fdatasync", failed, path);
    pthread_mutex_unlock(&lock);
    if (failed) errno = EIO;
    return result;
}
