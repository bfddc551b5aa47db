# The image of plainroute for those who would rather have Docker make it:
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=0.1.0 -t localhost/plainroute:0.1.0 .
#
# It holds what `make image` makes, which needs no Docker; only times and digest differ. It was not run with Docker by
# those who wrote it, who have none; the commands of its RUN were.

# Compiling is done on the machine's own platform, for the target's.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY . .
ARG TARGETOS TARGETARCH
ARG VERSION=dev REVISION=unknown SOURCE_DATE_EPOCH=0
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    hack/binaries.sh image && \
    hack/make-image.sh /made/image.tar localhost/plainroute:made "$VERSION" "$TARGETOS/$TARGETARCH" && \
    mkdir /made/files && tar -xf /made/image.tar -C /made && \
    for layer in $(grep -o '"Layers":.*' /made/manifest.json | grep -o 'blobs/sha256/[0-9a-f]*'); do \
      tar -xzf "/made/$layer" -C /made/files || exit 1; \
    done

FROM scratch
ARG VERSION=dev REVISION=unknown
LABEL org.opencontainers.image.title="plainroute" \
      org.opencontainers.image.description="A pod network for Kubernetes made of plain kernel routes" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="https://github.com/plainroute/plainroute" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /made/files /
ENTRYPOINT ["/plainroute"]
