# syntax=docker/dockerfile:1

FROM rust:1.95-slim-trixie AS build
# librdkafka is built from source: it takes a C and a C++ compiler, make and OpenSSL's headers.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libssl-dev make pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# Dependencies stay built between builds in the cache mounts; the binary is copied out because a mount is not part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked \
    && cp target/release/series-ingest /usr/local/bin/series-ingest

FROM debian:trixie-slim
# pg_dump and pg_restore are for `backup`.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3t64 postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/*
# A new volume takes the owner of the folder that it covers.
RUN install -d -o 65532 -g 65532 /var/lib/series-ingest
COPY --from=build /usr/local/bin/series-ingest /usr/local/bin/series-ingest
USER 65532:65532
# The only folder that is written to: everything else may be read-only.
WORKDIR /var/lib/series-ingest
VOLUME /var/lib/series-ingest
EXPOSE 9464
ENTRYPOINT ["series-ingest"]
CMD ["run"]
