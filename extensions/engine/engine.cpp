#include "engine.h"

#include <algorithm>
#include <cmath>

#include "failure.h"
#include "top_k.h"

namespace mpsplit {
namespace {

constexpr int world_id = 0, stage_id = 1;  // group ids of the graphs

std::shared_ptr<Comm> stage_of(const RankFacts& facts, const std::shared_ptr<Comm>& world) {
    if (facts.group.size() == 1) return std::make_shared<Comm>(0, 1);
    return world->group(facts.group);
}

}  // namespace

Engine::Engine(const std::string& folder, std::shared_ptr<Comm> world, int threads) : facts_(RankFacts::load(folder + "/rank.txt")) {
    if (world->size() != facts_.ranks || world->rank() != facts_.rank)
        throw Failure(folder + " is rank " + std::to_string(facts_.rank) + " of " + std::to_string(facts_.ranks) + ", this process is rank " +
                      std::to_string(world->rank()) + " of " + std::to_string(world->size()));
    setting_.groups = {{world_id, world}, {stage_id, stage_of(facts_, world)}};
    setting_.threads = threads;
    setting_.context = facts_.context;
    setting_.window = facts_.window;
    for (int position = 0; position < facts_.context; position++)
        for (float frequency : facts_.inverse_frequencies) {
            const double angle = float(position) * frequency;  // rounded to float, as the model's own tables
            cos_.push_back(float(std::cos(angle)) * facts_.rope_scaling);
            sin_.push_back(float(std::sin(angle)) * facts_.rope_scaling);
        }
    setting_.rotation = {cos_.data(), sin_.data()};
    std::vector<Mapped::Placed> placed;
    for (const auto& [offset, name] : facts_.packed) placed.push_back({folder + "/" + name, size_t(offset) * 64});
    packed_ = Mapped(placed, Reading::whole);
    setting_.packed.data = packed_.data;
    for (const auto& [begin, bytes] : packed_.pieces) setting_.packed.pieces.push_back({int64_t(begin), int64_t(bytes)});
    graph_ = std::make_unique<Graph>(folder + "/fused.param", folder + "/" + facts_.floats, setting_);
    hidden_in_ = graph_->blob("hidden");
    hidden_out_ = graph_->blob("hidden_out");
    logits_ = graph_->blob("logits");
    top_ = graph_->blob("top");
    if (hidden_in_ < 0 || hidden_out_ < 0 || (facts_.head_rows && (logits_ < 0 || top_ < 0)))
        throw Failure(folder + "/fused.param has no hidden, hidden_out, logits or top; convert the package again");
    if (facts_.first_stage && facts_.dtype != head_rows)
        embed_ = rows_of_file(folder + "/" + facts_.embedding);
    else if (facts_.first_stage && facts_.embed_rows) {
        if (facts_.embed_start != facts_.head_start || facts_.embed_rows != facts_.head_rows)
            throw Failure(folder + "/rank.txt takes the embedding from the head, which has other rows; convert the package again");
        embed_ = graph_->matrix_of("logits", facts_.head_rows, facts_.hidden);
    }
    if (logits_ >= 0) graph_->keep(logits_);  // TopK reads them too
    body_ = graph_->until("hidden_out");
    head_ = graph_->from("hidden_out");
}

Graph::Row Engine::rows_of_file(const std::string& path) {
    embedding_ = Mapped(path, Reading::rows);
    const EmbeddingFormat format(facts_.dtype, facts_.hidden);
    const size_t needed = size_t(facts_.embed_rows) * format.row_bytes();
    if (embedding_.bytes < needed)
        throw Failure(path + " has " + std::to_string(embedding_.bytes) + " bytes, " + std::to_string(facts_.embed_rows) + " rows take " +
                      std::to_string(needed) + "; copy it again or convert again");
    return [format, data = embedding_.data](int row, float* y) { format.read(data + row * format.row_bytes(), y); };
}

Engine::Logits Engine::step(const int64_t* tokens, int count, int position, bool every_row) {
    if (count < 1 || (position && position != position_) || position + count > facts_.context)
        throw Failure(std::to_string(count) + " tokens at " + std::to_string(position) + " do not follow the " + std::to_string(position_) +
                      " tokens of the cache in a context of " + std::to_string(facts_.context));
    setting_.position = position;
    Graph& graph = *graph_;
    hidden_in(tokens, count);
    graph.run(body_);
    position_ = position + count;
    ncnn::Mat& hidden = graph[hidden_out_];
    if (!facts_.head_rows) {
        graph.take(hidden_out_);
        return {nullptr, every_row ? count : 1, 0};
    }
    if (!every_row && count > 1) hidden = hidden.row_range(count - 1, 1).clone(graph.pool());
    graph.run(head_);
    const ncnn::Mat& logits = graph[logits_];
    return {logits, logits.h, logits.w};
}

// The tokens' rows of the embedding; zeros where another rank owns them, so that a sum over the ranks is the lookup.
void Engine::hidden_in(const int64_t* tokens, int count) {
    ncnn::Mat& hidden = (*graph_)[hidden_in_];
    hidden.create(facts_.hidden, count, sizeof(float), graph_->pool());
    for (int i = 0; i < count; i++) {
        float* row = hidden.row(i);
        const int64_t at = tokens[i] - facts_.embed_start;
        if (at < 0 || at >= facts_.embed_rows)
            std::fill_n(row, facts_.hidden, 0.f);
        else
            embed_(int(at), row);
    }
}

int Engine::largest(int count, float* values, int64_t* ids) {
    const ncnn::Mat& logits = (*graph_)[logits_];
    count = std::min(count, facts_.head_rows);
    const ncnn::Mat& top = (*graph_)[top_];
    if (count <= top.w) {
        std::copy_n(top.row(0), count, values);
        std::copy_n(top.row(1), count, ids);
        return count;
    }
    mpsplit::largest(logits.row(logits.h - 1), logits.w, count, values, ids);
    for (int i = 0; i < count; i++) ids[i] += facts_.head_start;
    return count;
}

void Engine::keep(const std::string& blob) { graph_->keep(index_of(blob)); }

const ncnn::Mat& Engine::blob(const std::string& name) const { return (*graph_)[index_of(name)]; }

int Engine::index_of(const std::string& blob) const {
    const int index = graph_->blob(blob);
    if (index < 0) throw Failure("the graph of rank " + std::to_string(facts_.rank) + " has no blob " + blob);
    return index;
}

uint64_t Engine::bytes_sent() const {
    uint64_t bytes = 0;
    for (const auto& [id, comm] : setting_.groups) bytes += comm->traffic().bytes;
    return bytes;
}

double Engine::seconds_between_ranks() const {
    double seconds = 0;
    for (const auto& [id, comm] : setting_.groups) seconds += comm->traffic().seconds;
    return seconds;
}

}  // namespace mpsplit
