// A loop written out: the index is a constant from the start, so that small arrays become registers.
#pragma once

#include <utility>

namespace aquatint {

template <class F, int... I>
[[gnu::always_inline]] inline void unroll(std::integer_sequence<int, I...>, F&& body) {
    (body(std::integral_constant<int, I>{}), ...);
}

template <int N, class F>
[[gnu::always_inline]] inline void unroll(F&& body) {
    unroll(std::make_integer_sequence<int, N>{}, body);
}

}  // namespace aquatint
