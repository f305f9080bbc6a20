#include "cpu/avx512_vnni.h"

namespace aquatint {
namespace {

constexpr KernelTable kTable = Kernels<Avx512Vnni>::table("avx512-vnni");

}  // namespace

const KernelTable* avx512_vnni_kernels() { return &kTable; }

}  // namespace aquatint
