// Memory that a thread keeps between calls: a fresh block for every call would cost a page fault for each 4 KB.
#pragma once

#include <cstdint>
#include <vector>

namespace aquatint {

// `count` numbers, not initialised; each `Slot` is a block of its own.
template <class T, int Slot>
static T* scratch(int64_t count) {
    thread_local std::vector<uint8_t> block;
    size_t bytes = size_t(count) * sizeof(T) + 64;
    if (block.size() < bytes) block.resize(bytes);
    auto address = (reinterpret_cast<uintptr_t>(block.data()) + 63) & ~uintptr_t(63);
    return reinterpret_cast<T*>(address);
}

}  // namespace aquatint
