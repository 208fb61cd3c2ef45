//! One byte budget for all that is held in memory between Kafka and COMMIT.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A count of bytes with a limit, shared by everything that holds messages or points. It never refuses a charge: the consumer,
/// which adds messages, checks [`Budget::is_full`] and pauses.
#[derive(Debug, Clone)]
pub struct Budget {
    used: Arc<AtomicUsize>,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { used: Arc::default(), limit }
    }

    /// Charges `bytes` until the returned value is dropped.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge { used: Arc::clone(&self.used), bytes }
    }

    /// The bytes charged now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns `true` if nothing more should be added.
    pub fn is_full(&self) -> bool {
        self.used() >= self.limit
    }

    /// Returns `true` if there is enough room to resume reading. A pause makes librdkafka discard what it has prefetched, so
    /// the two thresholds are far apart.
    pub fn has_room(&self) -> bool {
        self.used() <= self.limit / 2
    }
}

/// Bytes charged to a [`Budget`], released on drop.
#[derive(Debug)]
pub struct Charge {
    used: Arc<AtomicUsize>,
    bytes: usize,
}

impl Charge {
    /// A charge of 0 bytes to the same budget.
    pub fn another(&self) -> Self {
        Self { used: Arc::clone(&self.used), bytes: 0 }
    }

    /// Charges `bytes` instead of what was charged before.
    pub fn resize(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_given_back_when_it_is_dropped() {
        let budget = Budget::new(100);
        let mut first = budget.charge(60);
        let second = budget.charge(40);
        assert!(budget.is_full() && !budget.has_room());
        first.resize(10);
        assert_eq!(budget.used(), 50);
        assert!(budget.has_room());
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }
}
