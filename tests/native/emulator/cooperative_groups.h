// As much of CUDA's header of this name as the kernels use.
#pragma once

#include "words.h"

namespace cooperative_groups {

struct cluster_group {
    void sync() const { emulator::cluster.meet(emulator::cluster.meeting); }

    // The same place in the shared memory of another block.
    template <class T>
    T* map_shared_rank(T* own, int rank) const {
        auto place = reinterpret_cast<uint8_t*>(own) - emulator::cluster.block().shared;
        return reinterpret_cast<T*>(emulator::cluster.blocks[rank].shared + place);
    }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
