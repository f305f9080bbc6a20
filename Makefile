# make demo   set up, build, and compress the two shipped models
# make test   set up, build, lint, and run the tests; the CUDA kernels are compiled too where nvcc is
# make fuzz   the same tests on cases that are drawn anew
# make lint   ruff and pyright alone
# make cuda   the CUDA kernels, for every architecture that they are written for; needs nvcc, and no GPU
# make peers  the peers of benchmarks/cpu_peers.py, each into an environment of its own

PYTHON ?= python3
BIN := .venv/bin
NVCC ?= $(firstword $(wildcard $(addsuffix /nvcc,$(subst :, ,$(PATH)) /usr/local/cuda/bin)))
LIBRARY := build/cpu/libaquatint_cpu.so
SOURCES := $(wildcard csrc/*/*.cpp csrc/*/*.h) csrc/CMakeLists.txt

.PHONY: demo test fuzz lint setup cuda peers clean

demo: setup
	PYTHONPATH=. $(BIN)/python -m aquatint demo

test: setup lint build/peers/optimum/ready $(if $(NVCC),cuda)
	$(BIN)/python -m pytest

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

HOPPER := -gencode=arch=compute_90a,code=sm_90a
cuda: $(patsubst %,build/cuda/%.fatbin,product_w4 product_w8 quantize ceiling)
build/cuda/product_w%.fatbin: csrc/cuda/product_sm90.cu $(wildcard csrc/cuda/*.h)
	@mkdir -p $(@D)
	$(NVCC) -std=c++17 -O3 -Icsrc $(HOPPER) -DAQ_BITS=$* -fatbin -Xptxas -v $< -o $@ > $(@:.fatbin=.log) 2>&1 || (cat $(@:.fatbin=.log); false)
build/cuda/%.fatbin: csrc/cuda/%_sm90.cu $(wildcard csrc/cuda/*.h) csrc/common/codec.h
	@mkdir -p $(@D)
	$(NVCC) -std=c++17 -O3 -Icsrc $(HOPPER) -fatbin -Xptxas -v $< -o $@ > $(@:.fatbin=.log) 2>&1 || (cat $(@:.fatbin=.log); false)

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
