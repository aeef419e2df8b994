#include "engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "failure.h"

namespace mpsplit {
namespace {

constexpr int most_pages = 1 << 24;
constexpr int world_id = 0, stage_id = 1;  // group ids of the graphs

std::shared_ptr<Comm> stage_of(const RankFacts& facts, const std::shared_ptr<Comm>& world) {
    if (facts.group.size() == 1) return std::make_shared<Comm>(0, 1);
    return world->group(facts.group);
}

constexpr int pages_of(int positions) {
    constexpr int page = KeyValueCache::page_positions;
    return positions / page + (positions % page != 0);
}

void check(const Segment& segment) {
    if (segment.first < 0 || segment.last <= segment.first ||
        segment.first % KeyValueCache::page_positions != 0)
        throw Failure("there is no segment from " + std::to_string(segment.first) + " to " +
                      std::to_string(segment.last));
}

}  // namespace

Engine::Engine(const std::string& folder, std::shared_ptr<Comm> world, int threads)
    : facts_(RankFacts::load(folder + "/rank.txt")), pool_(threads) {
    if (world->size() != facts_.ranks || world->rank() != facts_.rank)
        throw Failure(folder + " is rank " + std::to_string(facts_.rank) + " of " +
                      std::to_string(facts_.ranks) + ", this process is rank " +
                      std::to_string(world->rank()) + " of " + std::to_string(world->size()));
    setting_.groups = {{world_id, world}, {stage_id, stage_of(facts_, world)}};
    setting_.pool = &pool_;
    setting_.pages = pages_of(facts_.context);
    setting_.window = facts_.window;
    for (int position = 0; position < facts_.context; position++)
        for (float frequency : facts_.inverse_frequencies) {
            // rounded to float, as the model's own tables
            const double angle = float(position) * frequency;
            cos_.push_back(float(std::cos(angle)) * facts_.rope_scaling);
            sin_.push_back(float(std::sin(angle)) * facts_.rope_scaling);
        }
    setting_.rotation = {cos_.data(), sin_.data()};
    setting_.angles = int(facts_.inverse_frequencies.size());
    std::vector<Mapped::Placed> placed;
    placed.reserve(facts_.packed.size());
    for (const auto& [offset, name] : facts_.packed)
        placed.push_back({std::string(folder).append("/").append(name), size_t(offset) * 64});
    packed_ = Mapped(placed, Reading::whole);
    setting_.packed.data = packed_.data;
    for (const auto& [begin, bytes] : packed_.pieces)
        setting_.packed.pieces.push_back({int64_t(begin), int64_t(bytes)});
    graph_ = std::make_unique<Graph>(folder + "/fused.param", folder + "/" + facts_.floats, facts_,
                                     setting_);
    hidden_in_ = graph_->blob("hidden");
    hidden_out_ = graph_->blob("hidden_out");
    logits_ = graph_->blob("logits");
    if (hidden_in_ < 0 || hidden_out_ < 0 || (facts_.head_rows && logits_ < 0))
        throw Failure(
            folder + "/fused.param has no hidden, hidden_out or logits; convert the package again");
    if (facts_.first_stage && facts_.dtype != head_rows)
        embed_ = rows_of_file(folder + "/" + facts_.embedding);
    else if (facts_.first_stage && facts_.embed_rows) {
        if (facts_.embed_start != facts_.head_start || facts_.embed_rows != facts_.head_rows)
            throw Failure(folder +
                          "/rank.txt takes the embedding from the head, which has other rows; "
                          "convert the package again");
        embed_ = graph_->matrix_of("logits", facts_.head_rows, facts_.hidden);
    }
    body_ = graph_->until("hidden_out");
    head_ = {body_.end, facts_.head_rows ? graph_->until("logits").end  // without TopK, which
                                         : body_.end};                  // nobody needs
    graph_->plan(body_, head_);
}

Graph::Row Engine::rows_of_file(const std::string& path) {
    embedding_ = Mapped(path, Reading::rows);
    const EmbeddingFormat format(facts_.dtype, facts_.hidden);
    const size_t needed = size_t(facts_.embed_rows) * format.row_bytes();
    if (embedding_.bytes < needed)
        throw Failure(path + " has " + std::to_string(embedding_.bytes) + " bytes, " +
                      std::to_string(facts_.embed_rows) + " rows take " + std::to_string(needed) +
                      "; copy it again or convert again");
    return [format, data = embedding_.data](int row, float* y) {
        format.read(data + row * format.row_bytes(), y);
    };
}

void Engine::reserve(int64_t pages, int64_t stored) {
    if (pages < 1 || pages > most_pages || stored < 0 || stored > int64_t(Stored::q8))
        throw Failure("there is no cache of " + std::to_string(pages) + " pages stored as " +
                      std::to_string(stored));
    writer_.wait();
    slots_.clear();
    setting_.pages = int(pages);
    for (KeyValueCache* cache : setting_.caches) cache->reserve(int(pages), Stored(stored));
}

int64_t Engine::page_bytes(int64_t stored) const {
    int64_t bytes = 0;
    for (const KeyValueCache* cache : setting_.caches)
        bytes += int64_t(cache->page_bytes(Stored(stored)));
    return bytes;
}

void Engine::place(int slot, int first, std::span<const int64_t> pages) {
    auto& table = slots_[slot];
    if (first < 0 || first > int(table.size()))
        throw Failure("page " + std::to_string(first) + " of slot " + std::to_string(slot) +
                      " does not follow its " + std::to_string(table.size()));
    if (int64_t(pages.size()) > setting_.pages - first)
        throw Failure("slot " + std::to_string(slot) + " would have " +
                      std::to_string(first + pages.size()) + " pages of " +
                      std::to_string(setting_.pages));
    table.resize(first);
    for (const int64_t number : pages) table.push_back(page(number));
}

int32_t Engine::page(int64_t number) const {
    if (number < 0 || number >= setting_.pages)
        throw Failure("there is no page " + std::to_string(number) + " of " +
                      std::to_string(setting_.pages));
    return int32_t(number);
}

void Engine::forget(std::span<const int64_t> pages) {
    std::vector<int32_t> sorted;
    sorted.reserve(pages.size());
    for (const int64_t number : pages) sorted.push_back(page(number));
    std::sort(sorted.begin(), sorted.end());
    for (KeyValueCache* cache : setting_.caches) cache->forget(sorted);
}

std::span<const int32_t> Engine::pages(int slot) const {
    const auto found = slots_.find(slot);
    return found == slots_.end() ? std::span<const int32_t>() : found->second;
}

void Engine::set_runs(std::span<const Part> parts, size_t tokens) {
    setting_.runs.clear();
    for (const auto& [slot, position, count] : parts) {
        const auto table = pages(slot);
        if (count < 1 || position < 0 || count > facts_.context - position ||
            pages_of(position + count) > int(table.size()))
            throw Failure(std::to_string(count) + " tokens at " + std::to_string(position) +
                          " do not fit the " + std::to_string(table.size()) + " pages of slot " +
                          std::to_string(slot) + ", or the context of " +
                          std::to_string(facts_.context));
        setting_.runs.push_back({count, position, table.data()});
    }
    if (parts.empty() || setting_.rows() != int64_t(tokens))
        throw Failure(std::to_string(tokens) + " tokens are not those of " +
                      std::to_string(parts.size()) + " parts");
}

Engine::Logits Engine::step(std::span<const int64_t> tokens, std::span<const Part> parts,
                            bool every_row) {
    set_runs(parts, tokens.size());
    Graph& graph = *graph_;
    const size_t answers = every_row ? tokens.size() : parts.size();
    graph.begin(int64_t(tokens.size()), int64_t(answers), hidden_in_);
    const auto began = std::chrono::steady_clock::now();
    hidden_in(tokens);
    embedding_ns_ += std::chrono::nanoseconds(std::chrono::steady_clock::now() - began).count();
    graph.run(body_);
    if (!facts_.head_rows) {
        graph.take(hidden_out_);
        return {nullptr, int(answers), 0};
    }
    pick_rows(parts, every_row);
    graph.run(head_);
    const ncnn::Mat& logits = graph[logits_];
    return {logits, logits.h, logits.w};
}

// Of the last hidden state, the last row of each part, or all of them.
void Engine::pick_rows(std::span<const Part> parts, bool every_row) {
    ncnn::Mat& hidden = (*graph_)[hidden_out_];
    ncnn::Mat picked = graph_->picked();
    int row = -1;
    for (int i = 0; i < picked.h; i++) {
        row += every_row ? 1 : parts[i].count;
        std::copy_n(hidden.row(row), hidden.w, picked.row(i));
    }
    hidden = picked;
}

// The tokens' rows of the embedding; zeros where another rank owns them, so that a sum over the
// ranks is the lookup.
void Engine::hidden_in(std::span<const int64_t> tokens) {
    ncnn::Mat& hidden = (*graph_)[hidden_in_];
    for (size_t i = 0; i < tokens.size(); i++) {
        float* row = hidden.row(int(i));
        const int64_t at = tokens[i] - facts_.embed_start;
        if (at < 0 || at >= facts_.embed_rows)
            std::fill_n(row, facts_.hidden, 0.f);
        else
            embed_(int(at), row);
    }
}

std::span<const int32_t> Engine::pages(int slot, int positions) const {
    const auto table = pages(slot);
    if (positions < 0 || size_t(pages_of(positions)) > table.size())
        throw Failure("slot " + std::to_string(slot) + " has no " + std::to_string(positions) +
                      " positions");
    return table;
}

Segment Engine::here(Segment segment) const {
    segment.rank = facts_.rank;
    return segment;
}

void Engine::save(int slot, const Segment& segment, const std::string& path) {
    check(segment);
    writer_.save(path, here(segment), setting_.caches, pages(slot, segment.last));
}

Outcome Engine::load(int slot, const Segment& segment, int until, const std::string& path) {
    if (until <= segment.first || until > segment.last)
        throw Failure("a segment from " + std::to_string(segment.first) + " to " +
                      std::to_string(segment.last) + " does not go to " + std::to_string(until));
    check(segment);
    return mpsplit::load(path, here(segment), until, setting_.caches, pages(slot, until));
}

void Engine::sweep(const std::string& folder, const std::vector<std::string>& saves) {
    writer_.sweep(folder, "rank-" + std::to_string(facts_.rank) + ".", saves);
}

void Engine::keep(const std::string& blob) { graph_->keep(index_of(blob)); }

const ncnn::Mat& Engine::blob(const std::string& name) const { return (*graph_)[index_of(name)]; }

int Engine::index_of(const std::string& blob) const {
    const int index = graph_->blob(blob);
    if (index < 0)
        throw Failure("the graph of rank " + std::to_string(facts_.rank) + " has no blob " + blob);
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

Spent Engine::spent() const {
    Spent spent = graph_->spent();
    spent[Kind::embedding] = embedding_ns_;
    return spent;
}

}  // namespace mpsplit
