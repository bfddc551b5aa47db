# plainroute. `make` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# The release, which is the tag of its image too: the chart names both.
RELEASE := $(shell awk '$$1 == "appVersion:" { print $$2 }' charts/plainroute/Chart.yaml)
# Between two tags it is the last one with the commit; without a tag the release with the commit, and without git the release.
COMMIT := $(shell git describe --always --dirty --exclude '*' 2>/dev/null)
VERSION ?= $(or $(shell git describe --tags --dirty 2>/dev/null),$(RELEASE)$(COMMIT:%=-g%))
REVISION ?= $(or $(shell git rev-parse HEAD 2>/dev/null),unknown)

# The version comes from above, so Go need not ask git, which refuses to answer where the clone is another user's.
export GOFLAGS := $(strip $(shell go env GOFLAGS 2>/dev/null) -buildvcs=false)

# A build without cgo and with -trimpath shares the build cache with the API server's packages.
GOBUILD := env CGO_ENABLED=0 go build -trimpath
PROGRESS := hack/progress.sh

# Runs tests and prints a line for each package. At the end it lists skipped tests with the reason, and sums up.
GOTESTSUM := $(CURDIR)/bin/tools/gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg --

# The race detector needs a C compiler.
RACE ?= $(if $(shell command -v "$$(go env CC 2>/dev/null)" 2>/dev/null),-race)

# Name and platforms of the image. Nothing is published, hence localhost/.
IMAGE ?= localhost/plainroute:$(RELEASE)
PLATFORMS ?= linux/amd64,linux/arm64

# Tests find the binaries by these variables. hack/binaries.sh takes them from the caller's KUBEBUILDER_ASSETS.
TESTENV := KUBEBUILDER_ASSETS=$(CURDIR)/bin/k8s CNI_BIN=$(CURDIR)/bin/cni PLAINROUTE_BIN=$(CURDIR)/bin/plainroute

PURE := ./cmd/... ./pkg/topology/... ./pkg/plan/... ./pkg/cni/... ./pkg/plugins/... ./pkg/web/... ./pkg/status/... ./pkg/leases/... \
  ./pkg/problem/... ./pkg/diagnosis/... ./pkg/text/... ./pkg/idle/... ./pkg/ratelog/... ./pkg/connectivity/... ./pkg/cleanup/... ./pkg/nslock/... ./hack/...

# The packages that `make mutate` mutates, and the sample: one mutant in so many.
MUTATE ?= ./pkg/plan ./pkg/topology ./pkg/cni ./pkg/dataplane+./pkg/doctor ./pkg/inspect+./pkg/doctor ./controllers ./pkg/nodes+./controllers ./pkg/nodestatus+./controllers ./pkg/idle ./pkg/ratelog+./controllers
SAMPLE ?= 1

# The maximum share, in percent, of sentences with constructions that plain technical English avoids (hack/prose/rules.go):
# of comments of cmd, controllers and pkg, of their user-visible strings, of docs and READMEs. Lower them, never raise them.
PROSE ?= -max 2 -max-strings 2 -max-docs 2

# The packages whose tests `make test-kernels` runs.
KERNEL_TESTS ?= ./test/links

# The folder below which `make install` installs.
PREFIX ?= /usr/local

##@ Use

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: quick
quick: build ## As demo, with a small API server of its own: it shows all about two minutes after the clone.
	@hack/binaries.sh cni
	@$(PROGRESS) "compiling the demo" $(GOBUILD) -o bin/demo ./test/demo
	@KEEP="$(KEEP)" bin/demo --quick

.PHONY: demo
demo: build assets ## Show plainroute at work on a cluster of network namespaces. KEEP=1 leaves it up.
	@$(PROGRESS) "compiling the demo" $(GOBUILD) -o bin/demo ./test/demo
	@KEEP="$(KEEP)" bin/demo

.PHONY: demo-down
demo-down: ## Take down a demo that was left up.
	@if [[ -x bin/demo ]]; then bin/demo down; else echo "there is no demo to take down"; fi

.PHONY: build
build: ## Build bin/plainroute.
	@$(PROGRESS) "compiling plainroute $(VERSION)" $(GOBUILD) -ldflags "-X main.version=$(VERSION) -X main.revision=$(REVISION)" -o bin/plainroute ./cmd/plainroute

.PHONY: man
man: ## Write the man pages, docs/man, from the commands' help.
	@go test -count=1 -run TestManPages ./cmd/plainroute -update

.PHONY: install
install: build ## Install bin/plainroute, as kubectl plugin too, and the man pages, below PREFIX (/usr/local).
	@install -D -m 0755 bin/plainroute "$(DESTDIR)$(PREFIX)/bin/plainroute"
	@ln -sf plainroute "$(DESTDIR)$(PREFIX)/bin/kubectl-plainroute"
	@install -D -m 0644 -t "$(DESTDIR)$(PREFIX)/share/man/man1" docs/man/*.1

.PHONY: plugin
plugin: ## Build the plugin of kubectl for a workstation, bin/kubectl-plainroute. GOOS=darwin GOARCH=arm64 for a Mac.
	@$(PROGRESS) "compiling the plugin $(VERSION)" $(GOBUILD) -ldflags "-X main.version=$(VERSION) -X main.revision=$(REVISION)" -o bin/kubectl-plainroute ./cmd/plainroute

.PHONY: image
image: ## Make the container image, bin/plainroute-image.tar. PLATFORMS=linux/amd64 is quicker.
	@hack/binaries.sh image
	@$(PROGRESS) "making the image $(IMAGE), $(VERSION)" hack/make-image.sh bin/plainroute-image.tar "$(IMAGE)" "$(VERSION)" "$(PLATFORMS)"

.PHONY: image-check
image-check: image ## Make the image again elsewhere, with an empty build cache; it must be the same to the byte.
	@$(PROGRESS) "making the image a second time" hack/check-image.sh bin/plainroute-image.tar "$(IMAGE)" "$(VERSION)" "$(PLATFORMS)"

.PHONY: release
release: ## Make the files of a release below bin/release: image, chart, manifests, kubectl plugin, checksums. IMAGE=, VERSION= choose names.
	@hack/binaries.sh image helm kustomize krew
	@$(PROGRESS) "making the release $(VERSION)" hack/release.sh bin/release "$(IMAGE)" "$(VERSION)"

.PHONY: assets
assets: ## Get or build etcd, kube-apiserver and the CNI plugins, below bin/.
	@hack/binaries.sh

##@ Check

.PHONY: test
test: assets build vet ## Run every test that this machine can run: pure, API server, kernel, packets.
	@hack/binaries.sh test
	@$(if $(RACE),,echo "the race detector is left out: there is no C compiler")
	@$(PROGRESS) "compiling the tests$(if $(RACE), for the race detector)" go list $(RACE) -test -deps -export -f '{{""}}' ./...
	@cd hack/image && $(GOTESTSUM) -count=1 ./...
	@cd test/page && $(GOTESTSUM) -count=1 -timeout=10m ./...
	@cd test/samples && $(GOTESTSUM) -count=1 ./...
	@# Two packages at a time: most wait more than they compute. test/faults and test/integration, which measure time, come
	@# last and have the machine nearly to themselves.
	@$(TESTENV) $(GOTESTSUM) $(RACE) -vet=off -p=2 -count=1 -timeout=10m ./...

.PHONY: test-unit
test-unit: ## Run the tests that need no kernel, no API server and no root.
	@hack/binaries.sh gotestsum
	@$(GOTESTSUM) $(PURE)

.PHONY: test-kernels
test-kernels: assets build ## Run tests on Debian's kernels, emulated by QEMU. KERNELS="bookworm trixie" chooses releases, KERNEL_TESTS="./pkg/dataplane" packages.
	@$(TESTENV) hack/kernels.sh $(KERNEL_TESTS)

.PHONY: mutate
mutate: assets build bin/mutate ## Mutate the code and check that tests fail. SAMPLE=50 tries one mutant in 50; MUTATE="./pkg/plan" chooses packages.
	@$(TESTENV) bin/mutate -sample $(SAMPLE) -known hack/mutate/alive.txt -json bin/mutants.json $(MUTATE)

# For packages with quick and pure tests only, so that the result is the same each time.
.PHONY: mutate-sample
mutate-sample: SAMPLE = 20
mutate-sample: MUTATE = ./pkg/plan ./pkg/topology
mutate-sample: bin/mutate ## Try some mutants of the quick packages, as in CI.
	@bin/mutate -sample $(SAMPLE) -known hack/mutate/alive.txt $(MUTATE)

.PHONY: test-page
test-page: ## Test the pages with Chromium. SCREENSHOTS=folder keeps pictures of them.
	@hack/binaries.sh gotestsum
	@cd test/page && $(GOTESTSUM) -count=1 -timeout=10m ./...

.PHONY: test-faults
test-faults: assets build ## Inject faults into a cluster; measure repair and loss.
	@hack/binaries.sh gotestsum
	@$(PROGRESS) "compiling the fault suite" go list -test -deps -export -f '{{""}}' ./test/faults
	@$(TESTENV) $(GOTESTSUM) -vet=off -count=1 -timeout=10m ./test/faults -table $(CURDIR)/bin/faults.txt $(FAULTS)
	@cat bin/faults.txt

.PHONY: faults-doc
faults-doc: ## Write the figures of test-faults to docs/faults.md; needs a quiet machine.
	@$(MAKE) test-faults FAULTS=-update

.PHONY: e2e
e2e: bin/cluster ## Install, use, upgrade and remove it on a cluster of real kubelets: by Helm, then by kustomize.
	@# 75: this machine can't, and the reason has been printed. `fit` finds it before a build of minutes.
	@code=0; bin/cluster fit || code=$$?; \
	if ((code == 75)); then echo "e2e: SKIPPED, see above"; exit; fi; \
	((code == 0)) && $(MAKE) e2e-run

.PHONY: e2e-run
e2e-run: e2e-assets build
	@$(PROGRESS) "compiling the e2e tests" $(GOBUILD:build=test) -c -o bin/e2e/e2e.test ./test/e2e
	@hack/e2e.sh $(E2E) || [[ $$? == 75 ]]

.PHONY: bin/cluster
bin/cluster:
	@$(PROGRESS) "compiling the cluster" $(GOBUILD) -o $@ ./test/e2e/cmd/cluster

.PHONY: e2e-kind
e2e-kind: e2e-images build ## Run the e2e tests on kind, with Docker, kind and kubectl. This target has not been run yet.
	@hack/binaries.sh helm coredns ingress
	@$(MAKE) image PLATFORMS=linux/$(shell go env GOARCH)
	@# The e2e tests upgrade to this: the same image, with another name and version.
	@$(PROGRESS) "making the image to upgrade to" hack/make-image.sh bin/e2e/images/upgrade.tar localhost/plainroute:upgrade \
	  "$(VERSION)-upgrade" linux/$(shell go env GOARCH) >/dev/null
	@$(PROGRESS) "compiling the e2e tests" $(GOBUILD:build=test) -c -o bin/e2e/e2e.test ./test/e2e
	@hack/kind.sh

# Not part of e2e: it takes six to ten minutes, and tests Kubernetes more than it tests us.
.PHONY: conformance
conformance: e2e-assets ## Run Kubernetes' network conformance tests on a cluster of real kubelets. CONFORMANCE="flags" passes flags.
	@hack/binaries.sh conformance
	@bin/cluster run --logs bin/e2e/logs/conformance \
	  --image bin/e2e/images/pause.tar,bin/e2e/images/coredns.tar,bin/e2e/conformance/image.tar,bin/plainroute-image.tar \
	  -- hack/conformance/run.sh bin/conformance.md $(CONFORMANCE)
	@cat bin/conformance.md

.PHONY: conformance-doc
conformance-doc: conformance ## Write the results of conformance to docs/conformance.md.
	@sed -i '/^<!-- conformance -->$$/q' docs/conformance.md && cat bin/conformance.md >>docs/conformance.md

.PHONY: e2e-assets
e2e-assets: e2e-images bin/cluster ## Get or build all binaries for a cluster of real kubelets.
	@hack/binaries.sh e2e
	@$(MAKE) image PLATFORMS=linux/$(shell go env GOARCH)
	@# The e2e tests upgrade to this: the same image, with another name and version.
	@$(PROGRESS) "making the image to upgrade to" hack/make-image.sh bin/e2e/images/upgrade.tar localhost/plainroute:upgrade \
	  "$(VERSION)-upgrade" linux/$(shell go env GOARCH) >/dev/null

.PHONY: e2e-left
e2e-left: e2e-assets ## Interrupt and kill clusters of real kubelets; check that nothing is left. LEFT="-kills 20" for more.
	@E2E=1 go test -count=1 -timeout=30m -v ./test/e2e/cmd/cluster -cluster $(CURDIR)/bin/cluster $(LEFT)

.PHONY: cluster-up
cluster-up: e2e-assets ## Start a cluster of real kubelets that stays. CLUSTER="--nodes 5" passes flags.
	@bin/cluster up $(CLUSTER)

.PHONY: cluster-down
cluster-down: ## Take down the cluster of cluster-up.
	@if [[ -x bin/cluster ]]; then bin/cluster down; else echo "there is no cluster to take down"; fi

.PHONY: e2e-images
e2e-images: ## Make the images of the e2e tests.
	@hack/binaries.sh image
	@mkdir -p bin/e2e/images
	@for program in pause workload; do \
	  $(PROGRESS) "compiling $$program" $(GOBUILD) -ldflags "-s -w" -o bin/e2e/$$program ./test/e2e/$$program; \
	  bin/tools/image -o bin/e2e/images/$$program.tar -tag localhost/$$program:1 -entrypoint /$$program bin/e2e/$$program:/$$program >/dev/null; \
	done

.PHONY: vet
vet:
	@$(PROGRESS) "vetting" env CGO_ENABLED=0 go vet -trimpath ./...

.PHONY: lint
lint: vet ## Run the linters; check formatting, go.mod and shell scripts.
	@hack/binaries.sh golangci-lint actionlint
	@bin/tools/actionlint
	@$(PROGRESS) "linting" bin/tools/golangci-lint run ./...
	@cd hack/image && $(CURDIR)/bin/tools/golangci-lint run --config $(CURDIR)/.golangci.yml ./...
	@go run ./hack/prose -totals $(PROSE)
	@$(PROGRESS) "compiling the plugin of kubectl for macOS" env GOOS=darwin GOARCH=arm64 $(GOBUILD) -o /dev/null ./cmd/plainroute
	@cd test/page && $(CURDIR)/bin/tools/golangci-lint run --config $(CURDIR)/.golangci.yml ./...
	@cd test/samples && $(CURDIR)/bin/tools/golangci-lint run --config $(CURDIR)/.golangci.yml ./...
	@if git ls-files --eol 2>/dev/null | grep '^i/-text'; then echo "lint: remove these binary files from the repository: git rm --cached FILE"; false; fi
	@go mod tidy -diff
	@go -C hack/image mod tidy -diff
	@go -C test/page mod tidy -diff
	@go -C test/samples mod tidy -diff
	@if command -v shellcheck >/dev/null; then shellcheck hack/*.sh hack/conformance/*.sh .ci/run; else echo "shell scripts are not checked: no shellcheck here"; fi

.PHONY: fmt
fmt: ## Format the code.
	@hack/binaries.sh golangci-lint
	@bin/tools/golangci-lint fmt ./...

.PHONY: vuln
vuln: ## Look for known vulnerabilities in the code in use. Needs the Go vulnerability database ($GOVULNDB).
	@hack/binaries.sh govulncheck
	@bin/tools/govulncheck ./... || { echo "vuln: vulnerabilities found, or the check failed: see above"; exit 1; }

.PHONY: bench
bench: build assets ## Measure the agent among thousands of Nodes. BENCH="-nodes 1000" passes flags; -datapath measures packets between pods.
	@$(PROGRESS) "compiling the benchmark" $(GOBUILD) -o bin/bench ./test/bench
	@bin/bench $(BENCH)

.PHONY: bench-plots
bench-plots: build assets ## Measure among 100 to 20,000 Nodes, in about five minutes, and draw docs/pictures. PLOTS="-draw" passes flags.
	@$(PROGRESS) "compiling the benchmark" $(GOBUILD) -o bin/bench ./test/bench
	@$(PROGRESS) "compiling the plotter" $(GOBUILD) -o bin/plots ./hack/plots
	@bin/plots $(PLOTS)

.PHONY: bench-check
bench-check: ## Count allocations, bytes and netlink messages of the costly steps; fail if one grew by more than a tenth.
	@$(PROGRESS) "compiling the comparison of counts" $(GOBUILD) -o bin/counts ./hack/counts
	@bin/counts

.PHONY: bench-counts
bench-counts: ## Save what bench-check counts, hack/counts/counts.txt.
	@$(PROGRESS) "compiling the comparison of counts" $(GOBUILD) -o bin/counts ./hack/counts
	@bin/counts -save

.PHONY: soak
soak: build assets ## Inject 3,000 random faults into a node, in ten minutes, and look for leaks in its agent. SOAK="-for 8h" passes flags.
	@$(PROGRESS) "compiling the soak test" $(GOBUILD) -o bin/soak ./test/soak
	@bin/soak $(SOAK)

.PHONY: clean
clean: demo-down ## Remove all files that were built or downloaded here.
	rm -rf bin

.PHONY: bin/mutate
bin/mutate:
	@$(GOBUILD) -o $@ ./hack/mutate
