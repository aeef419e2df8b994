// Rows of the embedding, read one by one. As their file has them, one after another:
//   F32, F16, BF16          [hidden] numbers
//   Q8-32, Q8-64, Q8-128    int8 [hidden], then float16 [hidden / block]: a scale a block
// or HEAD: there is no such file, the embedding's rows are those of the head's matrix (graph.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mpsplit {

constexpr char head_rows[] = "HEAD";

class EmbeddingFormat {
  public:
    // a Failure where there is no such dtype, or it does not fit hidden
    EmbeddingFormat(const std::string& dtype, int hidden);

    size_t row_bytes() const { return row_bytes_; }
    void read(const uint8_t* row, float* y) const;  // y [hidden]

  private:
    enum class Kind { f32, f16, bf16, q8 };
    Kind kind_;
    int hidden_, block_ = 0;
    size_t row_bytes_;
};

}  // namespace mpsplit
