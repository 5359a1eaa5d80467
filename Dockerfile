FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY config config
RUN cargo build --release --locked --bin warmline

FROM debian:bookworm-slim
# Unix listeners and the admin socket live in /run/warmline; share it with the application's container.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin warmline \
 && install -d -o warmline -g warmline -m 0755 /run/warmline
COPY --from=build /src/target/release/warmline /usr/bin/warmline
COPY config/warmline.toml /etc/warmline/warmline.toml
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001
# A drain takes up to 25 s (shutdown.drain_timeout): docker stop --time 30.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["warmline", "healthcheck"]
ENTRYPOINT ["warmline"]
CMD ["run", "--config", "/etc/warmline/warmline.toml"]
