# make help lists what there is. Go, make and git are enough for everything; a C compiler adds the race detector.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

GO    ?= go
MODULE := github.com/requorum/requorum
BUF   := $(GO) tool -modfile=internal/tools/buf.mod buf
LINT  := $(GO) tool -modfile=internal/tools/lint.mod golangci-lint
VULN  := $(GO) tool -modfile=internal/tools/vuln.mod govulncheck
INDEXDB := $(GO) tool -modfile=internal/tools/vulndb.mod indexdb
NFPM  := $(GO) tool -modfile=internal/tools/nfpm.mod nfpm
SBOM  := $(GO) tool -modfile=internal/tools/sbom.mod cyclonedx-gomod

# What a person keeps in GOFLAGS for other work must not change this build; the rest of it is respected.
GOFLAGS := $(strip $(filter-out -mod=% -modfile=% -tags=% -race -buildvcs=%,$(GOFLAGS)) -buildvcs=false)
export GOFLAGS
export GOWORK := off

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X $(MODULE)/internal/version.release=$(VERSION)
STATIC  := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w $(LDFLAGS)'

# The race detector needs cgo and a C compiler that can link.
CC_WORKS = $(shell echo 'int main(void){return 0;}' | $$($(GO) env CC) -pthread -x c - -o /dev/null 2>/dev/null && echo yes)
RACE     = $(if $(CC_WORKS),-race,)
CGO      = CGO_ENABLED=$(if $(CC_WORKS),1,0)

comma := ,

TEST_TIMEOUT ?= 15m
E2E_TIMEOUT  ?= 40m
HOSTS_TIMEOUT ?= $(if $(filter full,$(HOSTS)),3h,30m)
FUZZ_TIME    ?= 5s
SOAK         ?= 30m

##@ Build

.PHONY: build
build: ## bin/requorum, static
	$(STATIC) -o bin/requorum ./cmd/requorum

.PHONY: build-faults
build-faults: ## bin/requorum-faults, with the fault points that e2e uses and a clock that can be set off
	$(CGO) $(GO) build $(RACE) -tags faultinject,faultclock -overlay "$$($(GO) run ./internal/fault/skewtime bin/skew)" -ldflags '$(LDFLAGS)' -o bin/requorum-faults ./cmd/requorum

# Static, for hosts that have nothing but Debian's base.
HOSTS_BIN ?= bin/requorum-hosts
.PHONY: build-hosts
build-hosts:
	CGO_ENABLED=0 $(GO) build -trimpath -tags faultinject,faultclock -overlay "$$($(GO) run ./internal/fault/skewtime bin/skew)" -ldflags '-s -w $(LDFLAGS)' -o $(HOSTS_BIN) ./cmd/requorum

.PHONY: generate
generate: ## gen/ from proto/
	$(BUF) generate

.PHONY: fmt
fmt: ## Format Go and proto files
	$(LINT) fmt
	$(BUF) format -w

.PHONY: grpcurl
grpcurl: ## bin/grpcurl, to talk to a controller by hand
	CGO_ENABLED=0 $(GO) build -modfile=internal/tools/buf.mod -trimpath -o bin/grpcurl github.com/fullstorydev/grpcurl/cmd/grpcurl

# Servers of other minor versions, each with a module file of its own.
ETCDS := bin/etcd-3.5 bin/etcd-3.6 bin/etcd-3.7

.PHONY: etcds
etcds: $(ETCDS) etcd-3.4 ## bin/etcd-3.5 and so on: the servers that e2e restores

bin/etcd-3.5 bin/etcd-3.6 bin/etcd-3.7: bin/etcd-%: internal/tools/etcd-%.mod
	CGO_ENABLED=0 $(GO) build -modfile=$< -trimpath -ldflags '-s -w' -o $@ go.etcd.io/etcd/server/v3

# In one go, for they share most packages. A release has its version from the linker, and kubeadm compares it.
KUBERNETES := bin/kubernetes
.PHONY: kubernetes
kubernetes: $(KUBERNETES)/kubelet ## bin/kubernetes: Kubernetes' own programs, which tests run

$(KUBERNETES)/kubelet: internal/tools/kubernetes.mod
	@mkdir -p $(KUBERNETES)
	version=$$(sed -n 's|^\tk8s.io/kubernetes \(v1[^ ]*\).*|\1|p' $<); \
	CGO_ENABLED=0 $(GO) build -modfile=$< -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$version" -o $(KUBERNETES)/ \
		$$(sed -n 's|^\t*\(tool \)*\(k8s.io/kubernetes/cmd/[a-z-]*\)$$|\2|p' $<)

bin/plan-crd.yaml: internal/tools/plan/go.mod
	@mkdir -p bin
	cd internal/tools/plan && $(GO) tool controller-gen crd paths=github.com/rancher/system-upgrade-controller/pkg/apis/upgrade.cattle.io/v1 output:crd:stdout >$(CURDIR)/$@

# etcd 3.4 comes as the package of Debian 12.
.PHONY: etcd-3.4
etcd-3.4:
	@[[ -x bin/etcd-3.4 ]] && exit 0; \
	dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; chmod 755 "$$dir"; \
	if (cd "$$dir" && apt-get download -q etcd-server && dpkg-deb -x etcd-server_*.deb .) >"$$dir/said" 2>&1 && \
		[[ $$("$$dir/usr/bin/etcd" --version) == 'etcd Version: 3.4.'* ]]; then \
		install -D "$$dir/usr/bin/etcd" bin/etcd-3.4; \
	else \
		echo 'etcd-3.4: SKIPPED, no package etcd-server of that version can be downloaded here (apt-get update?)'; tail -n 3 "$$dir/said"; \
	fi

# What the binary says it is made of, in CycloneDX.
.PHONY: sbom
sbom: build ## dist/requorum.sbom.cdx.json: the modules that are linked in
	@mkdir -p dist
	$(SBOM) bin -json -std -noserial -notimestamp -version '$(VERSION)' -output dist/requorum.sbom.cdx.json bin/requorum

.PHONY: packages
packages: sbom ## dist/requorum*.deb and .rpm, for GOARCH
	deploy/package/build.sh bin/requorum dist/requorum.sbom.cdx.json '$(VERSION)' $(NFPM)

# From the binary and nothing else; neither a registry nor an engine is needed. Its tool has a module of its own.
.PHONY: image
image: build ## dist/requorum-image.tar for docker load, for GOARCH
	@mkdir -p dist
	arch=$$($(GO) env GOARCH); cd internal/tools/image && GOARCH= CGO_ENABLED=0 $(GO) run . -binary $(CURDIR)/bin/requorum -arch "$$arch" \
		-tag 'requorum:$(VERSION)' -version '$(VERSION)' -out $(CURDIR)/dist/requorum-image.tar

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin dist

##@ Check

.PHONY: check
check: check-format check-mod vet lint check-proto check-breaking check-generated ## Everything but the tests
	@echo 'check: all good'

.PHONY: check-format
check-format:
	@unformatted=$$(find . -name '*.go' -not -path './.git/*' -exec "$$($(GO) env GOROOT)/bin/gofmt" -l {} +); \
	if [[ -n $$unformatted ]]; then \
		echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; \
	fi

.PHONY: check-mod
check-mod:
	$(GO) mod tidy -diff

.PHONY: vet
vet:
	$(GO) vet ./...
	$(GO) vet -tags faultinject ./...

.PHONY: lint
lint:
	$(LINT) run ./...
	$(LINT) run --build-tags faultinject ./internal/fault/... ./agent/task ./controller/operation ./e2e/simulated

# Not part of make check, which needs nothing but Go: systemd and lintian have to be installed. With CI=true they must be.
.PHONY: check-packages
check-packages: packages image ## Units, scripts, packages and manifests, by systemd-analyze, shellcheck, lintian and Kubernetes' types
	cd internal/tools/image && $(GO) vet ./...
	cd internal/tools/manifests && $(GO) vet ./... && $(GO) test ./...
	deploy/package/check.sh

.PHONY: check-proto
check-proto:
	$(BUF) lint
	@$(BUF) format --diff --exit-code || { echo 'proto files are not formatted, run make fmt'; exit 1; }

# What was released is a promise. As long as nothing is, a change is compared with what it is based on: the point
# where it left origin/main, or the commit before. BREAKING_BASE=<commit> names another.
.PHONY: check-breaking
check-breaking:
	@base=$${BREAKING_BASE:-$$(git describe --tags --abbrev=0 2>/dev/null || true)}; \
	if [[ -z $$base ]]; then \
		base=$$(git merge-base HEAD origin/main 2>/dev/null || true); \
		if [[ -z $$base || $$base == $$(git rev-parse HEAD 2>/dev/null || true) ]]; then \
			base=$$(git rev-parse --verify --quiet HEAD~1 || true); \
		fi; \
	fi; \
	if [[ -z $$base ]] || ! git cat-file -e "$$base:proto" 2>/dev/null; then \
		echo "buf breaking: skipped, there is no earlier commit with proto/ here"; exit 0; \
	fi; \
	old=$$(mktemp -d); trap 'rm -rf "$$old"' EXIT; \
	git archive "$$base" proto buf.yaml | tar -x -C "$$old"; \
	echo "buf breaking: against $$base"; \
	$(BUF) breaking --against "$$old"

.PHONY: check-generated
check-generated:
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(BUF) generate -o "$$fresh"; \
	diff -r "$$fresh/gen" gen >&2 || { echo 'gen/ is not what proto/ generates, run make generate'; exit 1; }; \
	echo 'gen/ is fresh'

# A finding fails. Compared is what the Go that go.mod names builds, whichever runs here. VULNDB names another database than the newest
# that the module proxy has, as https://vuln.go.dev or file:///path/to/it.
.PHONY: vuln
vuln: ## Known vulnerabilities in what is built, by the Go project's database
	@db=$(VULNDB); \
	if [[ -z $$db ]]; then \
		module=$$($(GO) mod download -json golang.org/x/vulndb@latest | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p') || \
			{ echo 'vuln: the module proxy does not give the database; VULNDB=https://vuln.go.dev or VULNDB=file:///path names another' >&2; exit 1; }; \
		echo "vuln: the database is $${module##*@}"; \
		made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; \
		$(INDEXDB) -vulns "$$module/data/osv" -out "$$made"; \
		db=file://$$made; \
	fi; \
	GOTOOLCHAIN=$$(sed -n 's/^toolchain //p' go.mod) $(VULN) -db "$$db" ./cmd/...

##@ Test

.PHONY: test
test: unit e2e ## All tests, with the race detector where there is a C compiler

# Its tests run one package after the other: each puts back, in the end, what kubelets set for the whole machine.
.PHONY: test-kubelet
test-kubelet: kubernetes ## Static pods with real kubelets and containerd; needs root and Debian's containerd and runc
	@$(MAKE) build build-faults
	CGO_ENABLED=0 REQUORUM_KUBERNETES=$(CURDIR)/$(KUBERNETES) REQUORUM_BIN=$(CURDIR)/bin/requorum REQUORUM_FAULTS_BIN=$(CURDIR)/bin/requorum-faults \
		$(GO) test -p 1 -count=1 -timeout $(TEST_TIMEOUT) -v -run '^(TestWithKubelet|TestRealKubelets)$$' ./agent/runtime/staticpod ./e2e

# Needs neither a node nor root: an API server, and the etcd of the tests.
.PHONY: test-manifests
test-manifests: kubernetes bin/plan-crd.yaml ## What deploy/ has for Kubernetes, given to a real API server
	CGO_ENABLED=0 REQUORUM_KUBERNETES=$(CURDIR)/$(KUBERNETES) REQUORUM_PLAN_CRD=$(CURDIR)/bin/plan-crd.yaml \
		$(GO) test -count=1 -timeout $(TEST_TIMEOUT) -v -run '^TestManifestsAreAccepted$$' ./deploy

# With a release's binary. Its host is the process's own namespaces of mounts and of the network.
.PHONY: test-kubeadm
test-kubeadm: kubernetes bin/etcd-3.6 ## A control plane that kubeadm sets up, saved, changed and restored; needs what test-kubelet needs
	@$(MAKE) build
	CGO_ENABLED=0 REQUORUM_KUBERNETES=$(CURDIR)/$(KUBERNETES) REQUORUM_ETCDS=$(CURDIR)/bin REQUORUM_BIN=$(CURDIR)/bin/requorum REQUORUM_FAULTS_BIN=$(CURDIR)/bin/requorum \
		$(GO) test -count=1 -timeout $(TEST_TIMEOUT) -v -run '^TestKubeadm$$' ./e2e

.PHONY: unit
unit: race-notice ## Tests beside the code
	@$(CGO) $(GO) test $(RACE) -timeout $(TEST_TIMEOUT) $$($(GO) list ./... | grep -v '^$(MODULE)/e2e')
	@$(CGO) $(GO) test $(RACE) -timeout $(TEST_TIMEOUT) -tags faultinject ./internal/fault/... ./agent/task ./controller/operation
	@CGO_ENABLED=0 $(GO) test -timeout $(TEST_TIMEOUT) -run '^TestModel$$' ./controller/operation
	@$(GO) test -timeout $(TEST_TIMEOUT) -tags faultinject ./e2e/simulated
	@$(CGO) $(GO) test $(RACE) -timeout $(TEST_TIMEOUT) -tags faultinject -run 'TestRandomFaults|TestPolicies|TestANode|TestACopied' ./e2e/simulated

# The tests find the binaries by REQUORUM_BIN and REQUORUM_FAULTS_BIN.
.PHONY: e2e
e2e: race-notice ## Tests with real etcd clusters, real binaries and faults
ifneq ($(wildcard e2e),)
	@$(MAKE) build build-faults etcds
	REQUORUM_BIN=$(CURDIR)/bin/requorum REQUORUM_FAULTS_BIN=$(CURDIR)/bin/requorum-faults REQUORUM_ETCDS=$(CURDIR)/bin \
		$(CGO) $(GO) test $(RACE) -timeout $(E2E_TIMEOUT) $$($(GO) list ./e2e/... | grep -v '^$(MODULE)/e2e/sites$$')
	@$(MAKE) e2e-hosts
else
	@echo 'e2e: no tests in this tree'
endif

# The newest package in dist/ is the one that was just made.
.PHONY: e2e-hosts
e2e-hosts: ## A package on hosts with systemd and with Docker: reboots, cuts, lost hosts; HOSTS=full, HOSTS_SEED=7, HOSTS_RUN=TestUnits
	@$(MAKE) packages build-hosts bin/etcd-3.7
	REQUORUM_BIN=$(CURDIR)/bin/requorum REQUORUM_FAULTS_BIN=$(CURDIR)/bin/requorum-hosts REQUORUM_HOSTS_BIN=$(CURDIR)/bin/requorum-hosts \
		REQUORUM_ETCDS=$(CURDIR)/bin REQUORUM_DEB="$$(ls -t $(CURDIR)/dist/requorum*.deb | head -n 1)" REQUORUM_HOSTS=$(HOSTS) REQUORUM_HOSTS_SEED=$(HOSTS_SEED) \
		CGO_ENABLED=0 $(GO) test -count=1 -timeout $(HOSTS_TIMEOUT) -v $(if $(HOSTS_RUN),-run '$(HOSTS_RUN)') ./e2e/sites

# Two clusters to a core: much of a run is waiting. Without the race detector, whose processes need too much memory for that.
.PHONY: fault-matrix
fault-matrix: ## Every step meets every kind of fault; MATRIX=full, MATRIX_SEED=7, MATRIX_CELL='…' from the table
	@$(MAKE) build
	CGO_ENABLED=0 $(GO) build -trimpath -tags faultinject -ldflags '-s -w $(LDFLAGS)' -o bin/requorum-matrix ./cmd/requorum
	CGO_ENABLED=0 $(GO) build -o bin/matrix ./e2e/matrix
	REQUORUM_BIN=$(CURDIR)/bin/requorum REQUORUM_FAULTS_BIN=$(CURDIR)/bin/requorum-matrix bin/matrix -out dist \
		$(if $(filter full,$(MATRIX)),-full) $(if $(MATRIX_SEED),-seed $(MATRIX_SEED)) $(if $(MATRIX_DOC),-doc $(MATRIX_DOC)) $(if $(MATRIX_CELL),-cell '$(MATRIX_CELL)')

.PHONY: e2e-big
e2e-big: ## A database of 4 GiB and 2 million keys; needs 60 GiB on the disk and more than 14 GiB of memory
	@$(MAKE) build build-faults
	REQUORUM_BIN=$(CURDIR)/bin/requorum REQUORUM_FAULTS_BIN=$(CURDIR)/bin/requorum-faults REQUORUM_BIG=1 \
		$(GO) test -timeout 2h -run '^TestBig$$' -v ./e2e

.PHONY: soak
soak: race-notice ## A schedule every few seconds for SOAK (30m), with its controller and agents killed again and again
	@$(MAKE) build build-faults
	REQUORUM_BIN=$(CURDIR)/bin/requorum REQUORUM_FAULTS_BIN=$(CURDIR)/bin/requorum-faults REQUORUM_SOAK=$(SOAK) \
		$(CGO) $(GO) test $(RACE) -timeout 0 -run '^TestSoak$$' -v ./e2e

# Its tag is the checksum of the script. Tests that need hosts build it themselves.
.PHONY: host-image
host-image: ## The image of the hosts that tests run in Docker; built where it is not there
	@internal/hosttest/image.sh

.PHONY: race-notice
race-notice:
	@$(if $(CC_WORKS),true,echo 'no C compiler that works: testing without the race detector')

.PHONY: fuzz
fuzz: ## Every fuzz target for FUZZ_TIME (5s) each
	@{ grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . || true; } | sort | while IFS=: read -r file func; do \
		name=$${func#func }; \
		echo "fuzz: $$name in $$(dirname "$$file")"; \
		CGO_ENABLED=0 $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZ_TIME) "$$(dirname "$$file")" </dev/null; \
	done

.PHONY: demo
demo: ## A cluster on this machine, a snapshot and a restore to watch
	$(GO) run ./e2e/demo

.PHONY: bench
bench: ## What requorum costs beside what people use today, at 1 GiB; BENCH=full at 0.1, 1 and 4 GiB
	@$(GO) run ./e2e/bench -size $(if $(filter full,$(BENCH)),0.1$(comma)1$(comma)4,1) $(BENCH_FLAGS)

##@ Help

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
