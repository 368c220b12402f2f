# syntax=docker/dockerfile:1
# The three binaries, each in an image of its own that holds nothing else: static, without root.
#
#   docker build --target config-service   -t hookline/config-service .
#   docker build --target delivery-service -t hookline/delivery-service .
#   docker build                           -t hookline .

FROM rust:1.95-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends musl-tools ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    target="$(uname -m)-unknown-linux-musl" \
 && cargo build --profile dist --locked --target "$target" \
      -p hookline -p hookline-config-service -p hookline-delivery-service \
 && install -D --target-directory=/out "target/$target/dist/hookline" \
      "target/$target/dist/config-service" "target/$target/dist/delivery-service"
# What a scratch image lacks: folders that the user may write to.
RUN mkdir --mode=0700 /empty && mkdir --mode=0700 /empty-tmp

FROM scratch AS base
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /empty /data
COPY --from=build --chown=65532:65532 /empty-tmp /tmp
ENV HOOKLINE_DATA_DIR=/data
VOLUME /data
USER 65532:65532
STOPSIGNAL SIGTERM

FROM base AS config-service
COPY --from=build /out/config-service /config-service
EXPOSE 50051
HEALTHCHECK --interval=5s --timeout=4s --start-period=5s CMD ["/config-service", "--check-health"]
ENTRYPOINT ["/config-service"]

FROM base AS delivery-service
COPY --from=build /out/delivery-service /delivery-service
EXPOSE 50052
HEALTHCHECK --interval=5s --timeout=4s --start-period=5s CMD ["/delivery-service", "--check-health"]
ENTRYPOINT ["/delivery-service"]

FROM base AS hookline
COPY --from=build /out/hookline /hookline
EXPOSE 50051 50052
HEALTHCHECK --interval=5s --timeout=4s --start-period=5s CMD ["/hookline", "--check-health"]
ENTRYPOINT ["/hookline"]
