// What a set of instructions multiplies with; specialised where there is more than vectors.
#pragma once

namespace aquatint {

template <class V>
struct Bytes;
template <class V>
struct Words;
template <class V>
struct Product;
template <class V>
struct Attention;

template <class V>
struct Ways {
    using Branch = Words<V>;            // how the low-rank branch is held and multiplied in 16 bits
    using Down = Bytes<V>;              // and its way down in 8
    using Multiplication = Product<V>;  // of codes
    using Attending = Attention<V>;
};

}  // namespace aquatint
