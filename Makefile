# make demo   set up, build, and compress the two shipped models
# make test   set up, build, lint, and run the tests; the CUDA kernels are compiled too where nvcc is
# make test-gpu   the kernels on the NVIDIA GPU that is here, against the operators' meaning in float64
# make fuzz   the same tests on cases that are drawn anew
# make lint   ruff and pyright alone
# make cuda   the CUDA kernels, for every architecture that they are written for; needs nvcc, and no GPU
# make emulated   the CUDA kernels on a CPU, as the tests run them
# make peers  the peers of benchmarks/cpu_peers.py, each into an environment of its own

PYTHON ?= python3
BIN := .venv/bin
NVCC ?= $(firstword $(wildcard $(addsuffix /nvcc,$(subst :, ,$(PATH)) /usr/local/cuda/bin)))
LIBRARY := build/cpu/libaquatint_cpu.so
SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h) csrc/CMakeLists.txt

.PHONY: demo test test-gpu fuzz lint setup cuda emulated peers clean

demo: setup
	PYTHONPATH=. $(BIN)/python -m aquatint demo

test: setup lint build/peers/optimum/ready emulated $(if $(NVCC),cuda)
	$(BIN)/python -m pytest

test-gpu: setup cuda
	$(BIN)/python -m pytest -m gpu

fuzz: setup
	$(BIN)/python -m pytest --hypothesis-profile=fuzz

lint: setup
	$(BIN)/ruff check .
	$(BIN)/pyright --level error

setup: .venv/ready $(LIBRARY)

# torch first and alone: the range keeps pip from the newest, which brings gigabytes of CUDA.
.venv/ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "torch>=2.11,<2.14"
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(LIBRARY): .venv/ready $(SOURCES)
	$(BIN)/cmake -S csrc -B build/cpu -DCMAKE_BUILD_TYPE=Release
	$(BIN)/cmake --build build/cpu --parallel

CUDA_HEADERS := $(wildcard csrc/cuda/*.h) csrc/common/codec.h
FATBIN = $(NVCC) -std=c++17 -O3 -Icsrc -fatbin -Xptxas -v $< -o $@ > $(@:.fatbin=.log) 2>&1
FATBINS := product_w4_sm90 product_w8_sm90 quantize_sm90 ceiling_sm90
FATBINS += $(patsubst csrc/cuda/%.cu,%,$(wildcard csrc/cuda/*_sm80.cu csrc/cuda/*_sm120.cu))
cuda: $(FATBINS:%=build/cuda/%.fatbin)
build/cuda/product_w%_sm90.fatbin: csrc/cuda/product_sm90.cu $(CUDA_HEADERS)
	@mkdir -p $(@D)
	$(FATBIN) -gencode=arch=compute_90a,code=sm_90a -DAQ_BITS=$* || (cat $(@:.fatbin=.log); false)
build/cuda/%_sm90.fatbin: csrc/cuda/%_sm90.cu $(CUDA_HEADERS)
	@mkdir -p $(@D)
	$(FATBIN) -gencode=arch=compute_90a,code=sm_90a || (cat $(@:.fatbin=.log); false)
build/cuda/%_sm80.fatbin: csrc/cuda/%_sm80.cu $(CUDA_HEADERS)
	@mkdir -p $(@D)
	$(FATBIN) $(foreach sm,80 86 89 90 120,-gencode=arch=compute_$(sm),code=sm_$(sm)) || (cat $(@:.fatbin=.log); false)

build/cuda/%_sm120.fatbin: csrc/cuda/%_sm120.cu $(CUDA_HEADERS)
	@mkdir -p $(@D)
	$(FATBIN) -gencode=arch=compute_120f,code=sm_120f || (cat $(@:.fatbin=.log); false)

# The same kernels on a CPU, to be tested where there is no GPU.
EMULATOR := $(wildcard tests/native/emulator/*.h tests/native/emulator/cuda/*.h)
emulated: $(patsubst tests/native/emulator/%.cpp,build/emulated/%.so,$(wildcard tests/native/emulator/*.cpp))
build/emulated/%.so: tests/native/emulator/%.cpp $(wildcard csrc/cuda/*.cu) $(CUDA_HEADERS) $(EMULATOR)
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O2 -fPIC -shared -fno-strict-aliasing -ffp-contract=off -Wno-psabi -Itests/native/emulator -Icsrc $< -o $@

# Their own packages on top of ours: torch, numpy and diffusers are the ones that we measure with.
PEERS := openvino onnxruntime torchao bitsandbytes quanto optimum
peers: $(PEERS:%=build/peers/%/ready)
build/peers/openvino/ready: PACKAGES = openvino nncf
build/peers/onnxruntime/ready: PACKAGES = onnxruntime onnx onnxscript onnx_ir
build/peers/torchao/ready: PACKAGES = torchao
build/peers/bitsandbytes/ready: PACKAGES = bitsandbytes
build/peers/quanto/ready: PACKAGES = optimum-quanto
# optimum-onnx asks for transformers < 4.58, these for huggingface_hub < 1, and that for an older diffusers.
build/peers/optimum/ready: PACKAGES = optimum-onnx "diffusers<0.37" "transformers<4.58"
build/peers/%/ready: .venv/ready
	$(PYTHON) -m venv build/peers/$*
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])" \
	  > $$(build/peers/$*/bin/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")/aquatint.pth
	build/peers/$*/bin/python -m pip install --quiet $(PACKAGES)
	touch $@

clean:
	rm -rf build/cpu .venv
