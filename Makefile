# refrain - the one entry: `make help` lists what there is.
# Sources are found by folder; a new .c file in a room or a new tests/test_*.c needs no line here.

SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:

VERSION  := 0.1.0
BUILD    ?= build
SANITIZE ?=
CC       ?= cc
ifeq ($(origin CC),default)
CC := gcc
endif

# ---------------------------------------------------------------------------------------------------- dependencies

PACKAGES := gcc make pkg-config openmpi-bin libopenmpi-dev libzmq3-dev libprotobuf-c-dev protobuf-c-compiler \
  protobuf-compiler libsqlite3-dev libjansson-dev libutf8proc-dev libxxhash-dev libmicrohttpd-dev \
  libavcodec-dev libavformat-dev libavutil-dev libswscale-dev

.PHONY: deps
deps:
	@tools/deps.sh $(PACKAGES)

# ---------------------------------------------------------------------------------------------------------- flags

PKGS := libzmq libprotobuf-c sqlite3 jansson libutf8proc libxxhash libmicrohttpd libavformat libavcodec libswscale libavutil
pkg = $(shell pkg-config $(1) $(2) 2>/dev/null)

WARN   := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings -Wundef \
          -Wformat=2 -Wno-unused-parameter -Werror
CFLAGS ?= -O2 -g
PLAIN_CFLAGS := -std=gnu17 -D_GNU_SOURCE -DREFRAIN_VERSION='"$(VERSION)"' -I. -I$(BUILD) -fno-common -fPIC \
                -ffp-contract=off -pthread $(WARN)
BASE_CFLAGS := $(PLAIN_CFLAGS) $(SANITIZE)
PKG_CFLAGS  := $(call pkg,--cflags,$(PKGS))
MPI_CFLAGS  := $(shell mpicc --showme:compile 2>/dev/null)
MPI_LIBS    := $(shell mpicc --showme:link 2>/dev/null)
LDFLAGS     += -pthread $(SANITIZE)

# ------------------------------------------------------------------------------------------------------------- rooms

comma := ,

room = $(patsubst %.c,$(BUILD)/%.o,$(filter-out %/main.c,$(wildcard $(1)/*.c)))

PROTO_GEN := $(BUILD)/proto/refrain.pb-c.c $(BUILD)/proto/refrain.pb-c.h
ISAS      := avx2 avx512
ISA_avx2   := -mavx2 -mfma -mf16c
ISA_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512

OBJS_base        := $(call room,base)
OBJS_proto       := $(call room,proto) $(BUILD)/proto/refrain.pb-c.o
OBJS_client      := $(call room,client)
OBJS_cluster     := $(call room,cluster)
OBJS_launcher    := $(call room,cluster/launcher)
OBJS_kernels     := $(call room,kernels) $(foreach isa,$(ISAS),$(patsubst kernels/cpu/%.c,$(BUILD)/kernels/cpu/%.$(isa).o,$(wildcard kernels/cpu/*.c)))
# Layouts and whose turn it is: values, which ranks go by, and with which coordinator and client plan and play forward.
OBJS_rules       := $(call room,rules)
OBJS_model       := $(call room,worker/model)
OBJS_worker      := $(call room,worker)
# Policies and forecasts are values: coordinator and client check and explain with the same tables. What touches
# tensors is linked by workers only.
CACHE_TENSORS    := $(patsubst %,$(BUILD)/cache/%.o,reuse reuse_signals reuse_history reuse_save blocks bands)
OBJS_cache       := $(call room,cache)
OBJS_tier        := $(call room,cache/tier)
OBJS_policies    := $(filter-out $(CACHE_TENSORS),$(OBJS_cache))
OBJS_coordinator := $(foreach r,coordinator coordinator/planner coordinator/foresight coordinator/jobs coordinator/vault coordinator/ranks coordinator/tier coordinator/metrics,$(call room,$(r)))
# Plans are values, and so is what a model's JSON files say: the client plans with the coordinator's own code.
OBJS_planner     := $(patsubst %,$(BUILD)/%.o,coordinator/planner/planner coordinator/planner/planner_cost coordinator/planner/planner_traffic coordinator/planner/planner_load coordinator/planner/planner_memory coordinator/planner/needs coordinator/foresight/crew coordinator/foresight/crew_links coordinator/card worker/model/config worker/model/json_fields) $(OBJS_rules)

# Of the tier, programs that hold no items know keys and reasons alone.
OBJS_keys        := $(patsubst %,$(BUILD)/cache/tier/%.o,key miss)

CLIENT_OBJS      := $(OBJS_client) $(OBJS_planner) $(OBJS_keys) $(OBJS_policies) $(OBJS_proto) $(OBJS_base)
COORDINATOR_OBJS := $(OBJS_coordinator) $(OBJS_rules) $(OBJS_keys) $(OBJS_policies) $(OBJS_proto) $(OBJS_base)
LAUNCHER_OBJS    := $(OBJS_launcher) $(OBJS_policies) $(OBJS_proto) $(OBJS_base)
WORKER_OBJS      := $(OBJS_worker) $(OBJS_rules) $(OBJS_model) $(OBJS_cache) $(OBJS_tier) $(OBJS_cluster) $(OBJS_kernels) $(OBJS_proto) $(OBJS_base)

CLIENT_LIBS      := $(call pkg,--libs,libzmq libprotobuf-c jansson libxxhash) -lm
COORDINATOR_LIBS := $(call pkg,--libs,libzmq libprotobuf-c sqlite3 jansson libxxhash libmicrohttpd) -lm
LAUNCHER_LIBS    := $(call pkg,--libs,libzmq libprotobuf-c jansson) -lm
WORKER_LIBS      := $(call pkg,--libs,libzmq libprotobuf-c jansson libutf8proc libxxhash libavformat libavcodec libswscale libavutil) $(MPI_LIBS) -lm

PROGRAMS := $(patsubst %,$(BUILD)/%,$(if $(wildcard client/main.c),refrain) \
  $(if $(wildcard coordinator/main.c),refrain-coordinator) $(if $(wildcard worker/main.c),refrain-worker) \
  $(if $(wildcard cluster/launcher/main.c),refrain-launch))

# The GPU backend is a shared object that programs load (kernels/plugin.h): with CUDA=1 by nvcc, and for tests by the C++
# compiler, kernels emulated, over stand-ins for CUDA's libraries (docs/gpu.md). Both hold the same sources.
CUDA_SOURCES  := $(wildcard kernels/cuda/*.c)
CUDA_KERNELS  := $(wildcard kernels/cuda/*.cu)
CUDA_SHARED   := $(BUILD)/base/status.o $(BUILD)/base/clock.o $(BUILD)/base/log.o $(BUILD)/kernels/weights.o $(BUILD)/kernels/team.o
CUDA_EXPORTS  := -shared -Wl,--no-undefined -Wl,--version-script=kernels/cuda/exports.map
NVCC          ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
ifdef CUDA
ifeq ($(NVCC),)
$(info CUDA: not found; install the CUDA toolkit, or name its compiler: make CUDA=1 NVCC=/path/to/nvcc)
else
PROGRAMS += $(BUILD)/refrain-cuda.so
endif
endif

.PHONY: all help
all: $(PROGRAMS)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

$(BUILD)/refrain: $(BUILD)/client/main.o $(CLIENT_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS)
$(BUILD)/refrain-coordinator: $(BUILD)/coordinator/main.o $(COORDINATOR_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(COORDINATOR_LIBS)
$(BUILD)/refrain-launch: $(BUILD)/cluster/launcher/main.o $(LAUNCHER_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(LAUNCHER_LIBS)
$(BUILD)/refrain-worker: $(BUILD)/worker/main.o $(WORKER_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(WORKER_LIBS)

$(PROTO_GEN) &: proto/refrain.proto
	@mkdir -p $(BUILD)/proto
	protoc-c --proto_path=proto --c_out=$(BUILD)/proto $<
$(BUILD)/proto/refrain.pb-c.o: $(BUILD)/proto/refrain.pb-c.c
	$(CC) $(CFLAGS) $(BASE_CFLAGS) -c -o $@ $<

# The same vector code once per instruction set; which one runs is decided at run time.
define isa_rule
$(BUILD)/kernels/cpu/%.$(1).o: kernels/cpu/%.c $(BUILD)/.flags
	@mkdir -p $$(@D)
	$(CC) $(CFLAGS) -O3 $(BASE_CFLAGS) $(ISA_$(1)) -DISA=$(1) -DISA_$(1)=1 -MMD -MP -c -o $$@ $$<
endef
$(foreach isa,$(ISAS),$(eval $(call isa_rule,$(isa))))

# The facts of NCCL's interface that cluster/nccl.h states are checked where the real headers are.
CUDA_HOME ?= /usr/local/cuda
ifneq ($(wildcard $(CUDA_HOME)/include/nccl.h),)
$(BUILD)/cluster/nccl.o: BASE_CFLAGS += -DREFRAIN_WITH_NCCL_HEADERS -isystem $(CUDA_HOME)/include
endif

$(BUILD)/%.o: %.c $(BUILD)/.flags | $(PROTO_GEN)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(BASE_CFLAGS) $(PKG_CFLAGS) $(if $(filter cluster/% worker/% tests/% tools/%,$<),$(MPI_CFLAGS)) \
	  $(if $(filter tests/test_cu% tests/gpu/%,$<),$(CUDA_CFLAGS)) -MMD -MP -c -o $@ $<
# CUDA: the oldest GPU supported and the newest known, and an intermediate form for later ones.
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
CUDA_SMS  ?= 80 90 100 120
CUDA_ARCH := $(foreach sm,$(CUDA_SMS),-gencode arch=compute_$(sm),code=sm_$(sm)) -gencode arch=compute_$(lastword $(CUDA_SMS)),code=compute_$(lastword $(CUDA_SMS))
NVCC_FLAGS := -O3 -std=c++17 -I. $(CUDA_ARCH) -cudart shared -Werror all-warnings -Xcompiler -fPIC,-O2
$(BUILD)/refrain-cuda.so: $(CUDA_KERNELS:%.cu=$(BUILD)/nvcc/%.cu.o) $(CUDA_SOURCES:%.c=$(BUILD)/nvcc/%.o) $(CUDA_SHARED) kernels/cuda/exports.map
	$(CC) $(LDFLAGS) $(CUDA_EXPORTS) -o $@ $(filter %.o,$^) -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt -lcudart -lstdc++ -lm
$(BUILD)/nvcc/%.cu.o: %.cu $(BUILD)/.flags
	@mkdir -p $(@D)
	$(NVCC) $(NVCC_FLAGS) -Xptxas -v -MD -MP -MF $(@:.o=.d) -c -o $@ $< 2>$(@:.o=.log) || { cat $(@:.o=.log) >&2; rm -f $@; exit 1; }
$(BUILD)/nvcc/%.o: %.c $(BUILD)/.flags
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(BASE_CFLAGS) -isystem $(CUDA_HOME)/include -MMD -MP -c -o $@ $<

# Rebuild everything when the flags change, and only then.
FLAGS_NOW := $(CC) $(CFLAGS) $(BASE_CFLAGS) $(ISA_avx2) $(ISA_avx512)
$(BUILD)/.flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(subst ','\'',$(FLAGS_NOW))' | cmp -s - $@ || echo '$(subst ','\'',$(FLAGS_NOW))' > $@
.PHONY: FORCE
FORCE:

# --------------------------------------------------------------------------------------------------------------- run

.PHONY: run
run: ## from nothing to a video: install, build, start a coordinator and two ranks, make one clip, stop everything
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory -j$(CORES) build-quietly
	@$(BUILD)/refrain generate --model models/reference --prompt "a large red star spinning on a navy background" \
	  --seed 7 --steps 30 --guidance 4 --width 64 --height 64 --frames 17 --ranks 2 --cache balanced

CORES := $(shell nproc 2>/dev/null || echo 1)

.PHONY: build-quietly
build-quietly:
	@began=$$(date +%s.%N); log=$$(mktemp); \
	if ! $(MAKE) --no-print-directory all >$$log 2>&1; then cat $$log; rm -f $$log; exit 1; fi; rm -f $$log; \
	printf 'build    %s (%s)  %.1f s\n' "refrain, -coordinator, -worker, -launch" \
	  "$$($(BUILD)/refrain-worker --version | sed -n 's/.*here: //p')" $$(echo "$$(date +%s.%N) $$began" | awk '{print $$1 - $$2}')

PREFIX ?= /usr/local
.PHONY: install
install: all ## copy the programs to $(PREFIX)/bin
	install -D -t $(DESTDIR)$(PREFIX)/bin $(PROGRAMS)

# ------------------------------------------------------------------------------- CUDA without a GPU, without nvcc
# The .cu files compiled for the CPU (tests/cusim) over stand-ins for the CUDA libraries (tests/fakegpu): docs/gpu.md.
# Variants, in folders of their own: plain, with the sanitizer of the build, if any; and for kernels with planted faults
# bare, asan, and tsan, the race checker. The emulator is not instrumented for races: it tells the checker what a fiber is.

ifeq ($(origin CXX),default)
CXX := g++
endif
CUDA_CFLAGS    := -Itests/fakegpu/include
CUSIM_CXXFLAGS := -x c++ -std=gnu++17 -D_GNU_SOURCE -DREFRAIN_CUSIM -I. $(CUDA_CFLAGS) -fPIC -pthread \
                  -fno-strict-aliasing -ffp-contract=off -Wall -Wextra -Wshadow -Wno-unused-parameter \
                  -Wno-unused-function -Wno-unknown-pragmas -Werror
CUSIM_SANITIZE_plain := $(SANITIZE)
CUSIM_SANITIZE_bare  :=
CUSIM_SANITIZE_asan  := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
CUSIM_SANITIZE_tsan  := -fsanitize=thread

CUDART_C   := $(wildcard tests/fakegpu/cudart/*.c)
CUBLASLT_C := $(wildcard tests/fakegpu/cublaslt/*.c)
CUDNN_C    := $(wildcard tests/fakegpu/cudnn/*.c)
CUSIM_C    := $(wildcard tests/cusim/*.c)
KERNELS_CU := $(wildcard kernels/cuda/*.cu)
cusim_objects = $(patsubst %,$(BUILD)/cusim/$(1)/%.o,$(basename $(2)))

define cusim_variant
$(BUILD)/cusim/$(1)/%.o: %.cu $(BUILD)/.flags
	@mkdir -p $$(@D)
	$(CXX) $(CFLAGS) $(CUSIM_CXXFLAGS) $(CUSIM_SANITIZE_$(1)) -MMD -MP -c -o $$@ $$<
$(BUILD)/cusim/$(1)/%.o: %.c $(BUILD)/.flags
	@mkdir -p $$(@D)
	$(CC) $(CFLAGS) $(PLAIN_CFLAGS) $(CUDA_CFLAGS) $(if $(findstring thread,$(CUSIM_SANITIZE_$(1))),-DCUSIM_TSAN,$(CUSIM_SANITIZE_$(1))) \
	  $$(CUSIM_$$(notdir $$(@D))_CFLAGS) -MMD -MP -c -o $$@ $$<
$(BUILD)/cusim/$(1)/faults: $(call cusim_objects,$(1),tests/cusim/faults/faults.cu tests/cusim/faults/main.c $(CUSIM_C) $(CUDART_C))
	$(CXX) -pthread $(CUSIM_SANITIZE_$(1)) -o $$@ $$^ -lm -ldl
endef
CUSIM_cublaslt_CFLAGS := -O3 -ffp-contract=fast # whole models run on it
# Never the machine's own cuDNN: it knows nothing of emulated streams.
CUSIM_cuda_CFLAGS := -DCUDNN_LIBRARY='"libcudnn-emulated.so.9"'
CUSIM_cudnn_CFLAGS := -fvisibility=hidden
$(foreach variant,plain bare asan tsan,$(eval $(call cusim_variant,$(variant))))

# What a program links that runs kernels in its own process; link with $(CXX).
CUSIM_OBJS   := $(call cusim_objects,plain,$(CUSIM_C) $(CUDART_C) $(CUBLASLT_C))
EMULATED_GPU := $(CUSIM_OBJS) $(call cusim_objects,plain,$(KERNELS_CU) $(CUDA_SOURCES))

# The plug-in as make CUDA=1 makes it, over emulated kernels and the stand-ins: NCCL's then finds the same runtime. To be
# run with REFRAIN_FAKEGPU_KERNELS, as the one made by nvcc.
$(BUILD)/emulated/refrain-cuda.so: $(call cusim_objects,plain,$(CUDA_SOURCES)) $(CUDA_SHARED) \
    $(patsubst %,$(BUILD)/fakegpu/%,libkernels.so libcudart.so.13 libcublasLt.so.13) kernels/cuda/exports.map | $(BUILD)/fakegpu/libnccl.so.2
	@mkdir -p $(@D)
	$(CXX) $(LDFLAGS) $(CUDA_EXPORTS) -Wl,-rpath,'$$ORIGIN/../fakegpu' -o $@ $(filter %.o %.so %.so.13,$^) -lm

# The same as libraries, for programs built by nvcc.
.PHONY: fakegpu
fakegpu: $(patsubst %,$(BUILD)/fakegpu/%,libcudart.so.13 libcublasLt.so.13 libcudnn.so.9 libnccl.so.2 libkernels.so) ## stand-ins for the CUDA libraries (docs/gpu.md)
$(BUILD)/fakegpu/libcudart.so.13: $(call cusim_objects,plain,$(CUDART_C))
$(BUILD)/fakegpu/libcublasLt.so.13: $(call cusim_objects,plain,$(CUBLASLT_C)) $(BUILD)/fakegpu/libcudart.so.13
$(BUILD)/fakegpu/lib%.so.13: tests/fakegpu/lib%.map
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,$(@F) -Wl,--version-script=$< $(LDFLAGS) -o $@ $(filter %.o %.so.13,$^) -lm -ldl
$(call room,tests/fakegpu/nccl): BASE_CFLAGS += -fvisibility=hidden
$(BUILD)/fakegpu/libnccl.so.2: $(call room,tests/fakegpu/nccl) $(BUILD)/fakegpu/libcudart.so.13
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,$(@F) $(LDFLAGS) -o $@ $^
$(BUILD)/fakegpu/libcudnn.so.9: $(call cusim_objects,plain,$(CUDNN_C)) $(BUILD)/fakegpu/libcudart.so.13
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,$(@F) $(LDFLAGS) -o $@ $^ -lm
# For a program that has the stand-in runtime in it, and exports that.
$(BUILD)/emulated/libcudnn-emulated.so.9: $(call cusim_objects,plain,$(CUDNN_C))
	@mkdir -p $(@D)
	$(CC) -shared -Wl,-soname,$(@F) $(LDFLAGS) -o $@ $^ -lm
# Kernels and emulator in one object, bound to each other: a program built by nvcc has symbols of the same names.
$(BUILD)/fakegpu/libkernels.so: $(call cusim_objects,plain,$(CUSIM_C) $(KERNELS_CU)) $(BUILD)/fakegpu/libcudart.so.13
	@mkdir -p $(@D)
	$(CXX) -shared -Wl,-soname,$(@F) -Wl,-Bsymbolic $(LDFLAGS) -o $@ $(filter %.o %.so.13,$^) -lm

# ------------------------------------------------------------------------------------------------------------- tests

TEST_PACKAGES := libcmocka-dev g++ clang libclang-rt-dev ffmpeg iproute2 procps

TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
FUZZERS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz_*.c))
TEST_SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(wildcard tests/test_*.c tests/fuzz_*.c),$(wildcard tests/*.c)))
ALL_OBJS := $(sort $(OBJS_client) $(OBJS_coordinator) $(OBJS_launcher) $(WORKER_OBJS))

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(TEST_SUPPORT) $(ALL_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS) $(COORDINATOR_LIBS) $(WORKER_LIBS) $(call pkg,--libs,cmocka)

# Preloaded into services whose ranks are to die at a certain message.
$(BUILD)/tests/libdeadly.so: tests/faults/deadly.c
	@mkdir -p $(@D)
	$(CC) $(PLAIN_CFLAGS) -shared -o $@ $< -ldl
$(BUILD)/tests/test_service_fetch: | $(BUILD)/tests/libdeadly.so

# What finds the stand-ins at run time.
$(patsubst %,$(BUILD)/tests/%,test_fabric test_fabric_epochs test_circle test_fabric_nccl test_fabric_nccl_loss test_fabric_place test_fabric_yields test_fakenccl test_tier_fabrics): | $(patsubst %,$(BUILD)/fakegpu/%,libcudart.so.13 libnccl.so.2)

# Our own statement of CUDA's interface beside the real headers, and the stand-ins compiled against these, where they are.
CUDA_REAL := $(wildcard $(CUDA_HOME)/include/cublasLt.h)
$(BUILD)/cusim/abi_ours.o: tests/fakegpu/abi/table.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(BASE_CFLAGS) $(CUDA_CFLAGS) -DABI_TABLE=abi_ours -c -o $@ $<
$(BUILD)/cusim/abi_real.o: tests/fakegpu/abi/table.c $(CUDART_C) $(CUBLASLT_C)
	@mkdir -p $(@D)
	$(if $(CUDA_REAL),$(foreach c,$(CUDART_C) $(CUBLASLT_C),$(CC) $(PLAIN_CFLAGS) -Wno-switch -fsyntax-only -isystem $(CUDA_HOME)/include \
	  -DREFRAIN_FAKEGPU_CUDA_RUNTIME_API_H -DREFRAIN_FAKEGPU_CUBLASLT_H -include cuda_runtime_api.h -include cublasLt.h $(c) &&) true)
	$(CC) $(CFLAGS) $(BASE_CFLAGS) $(if $(CUDA_REAL),-isystem $(CUDA_HOME)/include,-DABI_EMPTY) -DABI_TABLE=abi_real -c -o $@ $<
CUDNN_REAL := $(wildcard $(CUDA_HOME)/include/cudnn_graph.h)
$(BUILD)/cusim/cudnn_ours.o: tests/fakegpu/abi/cudnn_table.c kernels/cuda/cudnn_types.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(BASE_CFLAGS) $(CUDA_CFLAGS) -DABI_TABLE=cudnn_ours -c -o $@ $<
$(BUILD)/cusim/cudnn_real.o: tests/fakegpu/abi/cudnn_table.c $(CUDNN_C) kernels/cuda/cudnn_types.h
	@mkdir -p $(@D)
	$(if $(CUDNN_REAL),$(foreach c,$(CUDNN_C),$(CC) $(PLAIN_CFLAGS) -Wno-switch -fsyntax-only -isystem $(CUDA_HOME)/include \
	  -DREFRAIN_FAKEGPU_CUDA_RUNTIME_API_H -DREFRAIN_KERNELS_CUDA_CUDNN_TYPES_H -include cuda_runtime_api.h -include cudnn_graph.h $(c) &&) true)
	$(CC) $(CFLAGS) $(BASE_CFLAGS) $(if $(CUDNN_REAL),-isystem $(CUDA_HOME)/include -DREFRAIN_KERNELS_CUDA_CUDNN_TYPES_H -include cudnn_graph.h,-DABI_EMPTY $(CUDA_CFLAGS)) \
	  -DABI_TABLE=cudnn_real -c -o $@ $<
$(BUILD)/tests/test_cuda_abi: $(patsubst %,$(BUILD)/cusim/%.o,abi_ours abi_real cudnn_ours cudnn_real)

# It loads the stand-in for cuDNN, which finds the stand-in runtime in it.
$(BUILD)/tests/test_cuda_cudnn: LDFLAGS += -rdynamic
$(BUILD)/tests/test_cuda_cudnn_real.o: BASE_CFLAGS += -DCUDA_STUB='"$(wildcard $(CUDA_HOME)/lib64/stubs/libcuda.so)"'
$(BUILD)/tests/test_cuda_cudnn: | $(BUILD)/emulated/libcudnn-emulated.so.9

# A program by nvcc, where there is one, and the emulation of its kernels.
SEMANTICS_CU := tests/cusim/semantics/semantics.cu tests/cusim/semantics/program.cu
$(BUILD)/cusim/program: $(SEMANTICS_CU) tests/cusim/semantics/semantics.h kernels/cuda/gpu.h
	@mkdir -p $(@D)
	$(if $(NVCC),$(NVCC) -O2 -std=c++17 -arch=sm_80 -I. -cudart shared -o $@ $(SEMANTICS_CU) -lcublasLt,rm -f $@)
$(BUILD)/cusim/libsemantics.so: $(call cusim_objects,plain,$(CUSIM_C) $(SEMANTICS_CU))
	@mkdir -p $(@D)
	$(CXX) -shared -Wl,-Bsymbolic $(LDFLAGS) -o $@ $^ -lm
$(BUILD)/tests/test_cuda_nvcc: | $(BUILD)/cusim/program $(BUILD)/cusim/libsemantics.so fakegpu

# Tests of CUDA code run it on the CPU; so do tests of ops, beside the other backends.
GPU_TEST_SUPPORT := $(call room,tests/gpu)
define gpu_test
$(BUILD)/tests/$(1): $(BUILD)/tests/$(1).o $(TEST_SUPPORT) $(GPU_TEST_SUPPORT) $(ALL_OBJS) $(EMULATED_GPU)
	$(CXX) $$(LDFLAGS) -o $$@ $$^ $(CLIENT_LIBS) $(COORDINATOR_LIBS) $(WORKER_LIBS) $(call pkg,--libs,cmocka)
endef
GPU_TESTS := $(filter test_cu%,$(notdir $(TESTS))) test_ops test_caching_ops
$(foreach test,$(GPU_TESTS),$(eval $(call gpu_test,$(test))))
$(BUILD)/tests/test_plugin $(BUILD)/tests/test_cuda_requests: | $(BUILD)/emulated/refrain-cuda.so
$(BUILD)/tests/test_bench_gpu: | $(BUILD)/emulated/refrain-cuda.so $(patsubst %,$(BUILD)/tools/%,bench_gpu bench_scaling)
$(BUILD)/tests/test_cusim $(BUILD)/tests/test_cudart: $(call cusim_objects,plain,tests/cusim/semantics/semantics.cu)
$(BUILD)/tests/test_cuda_faults: | $(patsubst %,$(BUILD)/cusim/%/faults,bare asan tsan)

# The tests of ops for the machine's GPU: nothing emulated is linked, and the plug-in is loaded as programs load it.
$(BUILD)/tests/gpu/test_%: $(BUILD)/tests/test_%.o $(TEST_SUPPORT) $(ALL_OBJS)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS) $(COORDINATOR_LIBS) $(WORKER_LIBS) $(call pkg,--libs,cmocka)
GPU_PROGRAMS := $(patsubst %,$(BUILD)/tests/gpu/%,test_ops test_caching_ops test_conv test_wide_conv) $(BUILD)/tests/test_cuda_requests

# The same under a checker for bounds, and for races: make build/cusim/tsan/test_cuda_conv, and run it; on small shapes, since
# it is slow, with REFRAIN_TEST_SMALL=1. Only kernels and their host code are checked, the test itself is not.
CHECKED_TESTS := $(foreach variant,asan tsan,$(patsubst %,$(BUILD)/cusim/$(variant)/test_%,cuda_attention cuda_conv ops caching_ops))
CHECKED := env REFRAIN_TEST_SMALL=1 REFRAIN_CUSIM_THREADS=2 ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=exitcode=66:suppressions=tests/tsan.supp
define cusim_checked_test
$(BUILD)/cusim/$(1)/test_%: $(BUILD)/tests/test_%.o $(TEST_SUPPORT) $(GPU_TEST_SUPPORT) $(ALL_OBJS) $(call cusim_objects,$(1),$(CUSIM_C) $(CUDART_C) $(CUBLASLT_C) $(KERNELS_CU) $(CUDA_SOURCES))
	$(CXX) -pthread $(CUSIM_SANITIZE_$(1)) -o $$@ $$^ $(CLIENT_LIBS) $(COORDINATOR_LIBS) $(WORKER_LIBS) $(call pkg,--libs,cmocka)
endef
$(foreach variant,asan tsan,$(eval $(call cusim_checked_test,$(variant))))

# The simulator: the product's objects, but for those that know the time, a socket or a thread (docs/simulation.md).
# WRAPPED: functions whose calls cost virtual time, tools/sim/costs.c.
SIM_REPLACED := $(BUILD)/base/clock.o $(BUILD)/base/log.o $(BUILD)/worker/control.o $(BUILD)/worker/video.o $(patsubst %.c,$(BUILD)/%.o,\
  $(wildcard cluster/fabric*.c worker/courier*.c coordinator/vault/vault*.c))
SIM_OBJS     := $(call room,tools/sim) $(filter-out $(SIM_REPLACED),$(ALL_OBJS))
WRAPPED      := denoiser_blocks denoiser_embed denoiser_output text_encoder_layer vae_decode results_chunk ulysses_give ulysses_heads \
  ulysses_rows
SIM_LIBS     := $(patsubst %,-Wl$(comma)--wrap=%,$(WRAPPED)) $(CLIENT_LIBS) $(COORDINATOR_LIBS) $(WORKER_LIBS)

$(BUILD)/tests/test_sim_%: $(BUILD)/tests/test_sim_%.o $(SIM_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(SIM_LIBS) $(call pkg,--libs,cmocka)
$(BUILD)/tests/test_ulysses: $(BUILD)/tools/sim/tiny.o
.PHONY: simulate
simulate: $(BUILD)/simulate ## build/simulate: the service on a virtual clock (docs/simulation.md)
$(BUILD)/simulate: $(BUILD)/tools/simulate.o $(SIM_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(SIM_LIBS)

# The tier on traces: its own objects, and nothing of the service (docs/tier.md).
.PHONY: simulate-tier
simulate-tier: $(BUILD)/simulate_tier ## build/simulate_tier: traces of requests against the cache tier (docs/tier.md)
$(BUILD)/simulate_tier: $(BUILD)/tools/simulate_tier.o $(call room,tools/tier) $(OBJS_tier) $(OBJS_base)
	$(CC) $(LDFLAGS) -o $@ $^ $(call pkg,--libs,jansson libxxhash) -lm

$(BUILD)/tests/test_tier_traces: $(BUILD)/tests/test_tier_traces.o $(call room,tools/tier) $(OBJS_tier) $(OBJS_base)
	$(CC) $(LDFLAGS) -o $@ $^ $(call pkg,--libs,jansson libxxhash cmocka) -lm

# Fuzzers are built from the sources with clang's instrumentation, apart from everything else.
FUZZ_FLAGS := -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -std=gnu17 -D_GNU_SOURCE \
  -DREFRAIN_VERSION='"$(VERSION)"' -I. -I$(BUILD)
sources_of = $(patsubst proto/refrain.pb-c.c,$(BUILD)/proto/refrain.pb-c.c,$(patsubst $(BUILD)/%.o,%.c,$(1)))
FUZZ_POLICIES := $(call sources_of,$(OBJS_policies))
FUZZ_SOURCES_wire := tests/message_maker.c $(call sources_of,$(OBJS_proto)) $(FUZZ_POLICIES) base/status.c
FUZZ_SOURCES_cache := $(FUZZ_POLICIES) base/status.c
FUZZ_SOURCES_ticket := cluster/ticket.c base/status.c
FUZZ_SOURCES_safetensors := worker/model/safetensors.c worker/model/checkpoint.c base/status.c
FUZZ_SOURCES_files := $(call sources_of,$(OBJS_base) $(OBJS_planner) $(OBJS_proto)) $(FUZZ_POLICIES) $(patsubst %,client/%.c,planmodel tablefile trace)
FUZZ_SOURCES_model := $(FUZZ_SOURCES_files) worker/model/tables.c $(patsubst %,worker/model/%.c,tokenizer tokenizer_load unigram spiece charsmap prompt)
FUZZ_SOURCES_stored := $(call sources_of,$(OBJS_tier) $(OBJS_base)) cluster/envelope.c coordinator/vault/vaultfile.c
# The rest of the two programs is linked as it is.
FUZZ_SOURCES_checkpoint := $(wildcard cache/*.c worker/job*.c)
$(BUILD)/tests/fuzz_checkpoint: $(filter-out $(patsubst %.c,$(BUILD)/%.o,$(FUZZ_SOURCES_checkpoint)),$(ALL_OBJS)) $(TEST_SUPPORT)
FUZZ_SOURCES_coordinator := tests/message_maker.c $(filter-out coordinator/main.c,$(call sources_of,$(OBJS_coordinator)))
$(BUILD)/tests/fuzz_coordinator: $(filter-out $(OBJS_coordinator),$(COORDINATOR_OBJS))
$(BUILD)/tests/fuzz_%: tests/fuzz_%.c $(foreach room,proto base cache cache/tier client cluster coordinator $(wildcard coordinator/*/) rules worker worker/model,$(wildcard $(room)/*.[ch])) tests/message_maker.[ch] | $(PROTO_GEN)
	@mkdir -p $(@D)
	clang $(FUZZ_FLAGS) $(call pkg,--cflags,$(PKGS)) -o $@ $< $(FUZZ_SOURCES_$*) $(filter %.o,$^) \
	  $(CLIENT_LIBS) $(COORDINATOR_LIBS) $(if $(filter %.o,$^),$(WORKER_LIBS) $(call pkg,--libs,cmocka),$(call pkg,--libs,libutf8proc)) -lm

FUZZ_SECONDS ?= 8
.PHONY: test test-programs test-fuzz fuzz
test: ## install what tests need, build, run every test (a short fuzz included)
	@tools/deps.sh $(PACKAGES) $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory -j$(CORES) test-programs
	@tools/run_tests.sh $(TESTS) $(if $(SANITIZE),,"tests/hosts/run.sh $(BUILD)") \
	  $(foreach f,$(FUZZERS),"tools/fuzz.sh $(f) $(FUZZ_SECONDS)")

# Everything about GPUs that is tested without one; `make test` runs what of it takes seconds.
CUDA_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_cu*.c tests/test_fabric_nccl*.c tests/test_fakenccl.c tests/test_order.c tests/test_bench_gpu.c))
STAND_INS := LD_LIBRARY_PATH=$(abspath $(BUILD))/fakegpu REFRAIN_FAKEGPU_KERNELS=$(abspath $(BUILD))/fakegpu/libkernels.so \
  REFRAIN_FAKEGPU_DEVICES=2 REFRAIN_PLUGINS=$(abspath $(BUILD))/emulated
.PHONY: test-cuda
test-cuda: ## CUDA and NCCL without a GPU: every kernel, call and failure over stand-ins (docs/gpu.md)
	@tools/deps.sh $(PACKAGES) $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory -j$(CORES) all $(CUDA_TESTS) $(CHECKED_TESTS) $(GPU_PROGRAMS) $(patsubst %,$(BUILD)/tests/%,test_fabric test_fabric_epochs test_circle)
	@REFRAIN_TEST_CUDA=all REFRAIN_TEST_SECONDS=900 tools/run_tests.sh $(CUDA_TESTS) "env REFRAIN_TEST_KIND=nccl $(BUILD)/tests/test_fabric" \
	  "env REFRAIN_TEST_KIND=nccl $(BUILD)/tests/test_fabric_epochs" \
	  "env REFRAIN_TEST_KIND=nccl $(BUILD)/tests/test_circle" \
	  "env REFRAIN_FAKEGPU_PROTECT=1 $(BUILD)/tests/test_fabric_nccl" $(foreach t,$(CHECKED_TESTS),"$(CHECKED) $(t)")
	@env $(STAND_INS) REFRAIN_TEST_GPU=2 tools/test_gpu.sh $(BUILD)

# The same ops and requests on the GPUs of this machine. Without one: what is missing, and status 77 of the script.
.PHONY: test-gpu
test-gpu: ## CUDA and NCCL on this machine's GPUs: every op against ref, whole requests (docs/gpu.md)
	@tools/deps.sh $(PACKAGES) $(TEST_PACKAGES)
	@$(MAKE) --no-print-directory -j$(CORES) CUDA=1 all $(GPU_PROGRAMS)
	@tools/test_gpu.sh $(BUILD)

SLURM_PACKAGES := slurmd slurmctld slurm-client munge iproute2
.PHONY: test-slurm
test-slurm: ## a Slurm of three namespaces (installs it): jobs through ranks in an allocation, and their replacements
	@tools/deps.sh $(PACKAGES) $(SLURM_PACKAGES)
	@$(MAKE) --no-print-directory -j$(CORES) all
	@tests/slurm/run.sh $(BUILD)

test-programs: all $(TESTS) $(FUZZERS)

fuzz: FUZZ_SECONDS = 600
fuzz: $(FUZZERS) ## ten minutes of fuzzing each decoder
	@tools/run_tests.sh $(foreach f,$(FUZZERS),"tools/fuzz.sh $(f) $(FUZZ_SECONDS)")

.PHONY: asan tsan
asan: ## every test under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory BUILD=build/asan SANITIZE="-fsanitize=address,undefined -fno-omit-frame-pointer" \
	  CFLAGS="-O1 -g" FUZZERS= test
tsan: ## every test under ThreadSanitizer
	@TSAN_OPTIONS=suppressions=$(CURDIR)/tests/tsan.supp $(MAKE) --no-print-directory BUILD=build/tsan SANITIZE="-fsanitize=thread" CFLAGS="-O1 -g" FUZZERS= test

# ---------------------------------------------------------------------------------------------------------- examples

EXAMPLE_PACKAGES := python3 python3-zmq python3-protobuf

$(BUILD)/examples/submit: $(BUILD)/examples/submit.o $(CLIENT_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS)

.PHONY: examples
examples: ## build and run the C and the Python example against a real coordinator
	@tools/deps.sh $(PACKAGES) $(EXAMPLE_PACKAGES)
	@$(MAKE) --no-print-directory -j$(CORES) all
	@examples/run.sh $(BUILD)

# --------------------------------------------------------------------------------------------------------- benchmarks

BENCHES := $(patsubst tools/%.c,$(BUILD)/tools/%,$(wildcard tools/bench_*.c))
$(BUILD)/tools/bench_%: $(BUILD)/tools/bench_%.o $(call room,tools/bench) $(ALL_OBJS)
	$(CC) $(LDFLAGS) -o $@ $^ $(CLIENT_LIBS) $(COORDINATOR_LIBS) $(WORKER_LIBS)

$(BUILD)/tools/nccl_orders: $(BUILD)/tools/nccl_orders.o $(BUILD)/tests/nccl_orders.o
	$(CC) $(LDFLAGS) -o $@ $^

.PHONY: bench bench-programs
bench-programs: all $(BENCHES)
bench: ## ratios against diffusers on this machine (makes .reference-env, some GB, the first time)
	@tools/deps.sh $(PACKAGES) python3-venv
	@$(MAKE) --no-print-directory -j$(CORES) bench-programs
	@tools/bench.sh $(BUILD)

.PHONY: bench-caching
bench-caching: ## every caching policy against the uncached video, fewer steps, and cache-dit on torch (40 minutes)
	@tools/deps.sh $(PACKAGES) python3-venv
	@$(MAKE) --no-print-directory -j$(CORES) bench-programs
	@tools/bench_caching.sh $(BUILD)

.PHONY: bench-service
bench-service: ## the queue, jobs in flight, checkpoints and recovery (6 minutes)
	@tools/deps.sh $(PACKAGES) procps
	@$(MAKE) --no-print-directory -j$(CORES) bench-programs
	@$(BUILD)/tools/bench_queue $(BUILD)/refrain-coordinator $(BUILD)/refrain-worker models/reference 2>/dev/null
	@$(BUILD)/tools/bench_flight $(BUILD) models/reference
	@$(BUILD)/tools/bench_finish $(abspath $(BUILD)) $(abspath models/reference) 2 24
	@tools/bench_recovery.sh $(BUILD) models/reference

.PHONY: bench-plan
bench-plan: ## the planner's predictions beside what one and two ranks of this machine take (5 minutes; needs a quiet machine)
	@tools/deps.sh $(PACKAGES) python3-venv
	@$(MAKE) --no-print-directory -j$(CORES) all $(BUILD)/tools/bench_plan
	@tools/bench_plan.sh $(BUILD)

.PHONY: bench-gpu
bench-gpu: ## this machine's GPUs: ops against peak, attention against cuDNN; MODEL=DIR [SIZE=WxHxF]: forwards, scaling
	@tools/deps.sh $(PACKAGES)
	@$(MAKE) --no-print-directory -j$(CORES) CUDA=1 all $(patsubst %,$(BUILD)/tools/%,bench_gpu bench_scaling)
	@tools/bench_gpu.sh $(BUILD) $(MODEL) $(SIZE)

.PHONY: bench-tier
bench-tier: ## the cache tier: a rank's store beside memcpy and plain files, items from rank to rank beside the fabric's messages (2 minutes)
	@$(MAKE) --no-print-directory -j$(CORES) $(BUILD)/refrain-coordinator $(BUILD)/tools/bench_tier $(BUILD)/tools/bench_tier_fabric
	@$(BUILD)/tools/bench_tier
	@$(BUILD)/tools/bench_tier_fabric $(BUILD) 2>/dev/null

.PHONY: tidy
tidy: ## clang-format, clang-tidy and cppcheck over everything
	@tools/tidy.sh

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)

.PHONY: clean
clean: ## forget everything that was built
	rm -rf $(BUILD)
