#include "blob_places.h"

#include <string>

namespace mpsplit {
namespace {

constexpr int before_all = -1;  // the step that makes what the engine gives
enum class Bytes { own, in_place, same, elsewhere };

Bytes bytes_of(const ncnn::Layer& layer, const std::vector<int64_t>& made) {
    if (layer.type == "Split") return Bytes::same;
    if (layer.type == "Reshape")  // ncnn's channels may have gaps between them
        return made.size() == 3 && made[0] * made[1] % 4 ? Bytes::elsewhere : Bytes::same;
    if (layer.type == "MemoryData") return Bytes::elsewhere;
    return layer.support_inplace ? Bytes::in_place : Bytes::own;
}

constexpr int64_t up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

int BlobPlaces::room(const std::vector<int64_t>& shape, int step) {
    rooms_.push_back({shape, step, step, 1});
    return int(rooms_.size()) - 1;
}

BlobPlaces::BlobPlaces(const ncnn::Net& net, const BlobShapes& shapes, int picked, int end,
                       const std::vector<bool>& kept)
    : room_of_(net.blobs().size(), -1) {
    for (const ncnn::Blob& blob : net.blobs()) shape_.push_back(shapes.at(blob.name));
    std::vector<int> now = room_of_;  // what is picked has another room than before
    int step = 0;
    const auto read = [&](int blob) {
        const int at = now[blob];
        if (at >= 0) rooms_[at].unread--, rooms_[at].last = std::max(rooms_[at].last, step);
        return at;
    };
    for (int i = 0; i < end; i++) {
        const ncnn::Layer& layer = *net.layers()[i];
        if (i == picked) {
            const int blob = layer.bottoms[0];
            read(blob);
            now[blob] = picked_ = room({shape_[blob][0], some_answers}, step++);
            rooms_[picked_].unread += kept[blob];
        }
        if (layer.type == "Split" && now[layer.bottoms[0]] >= 0) {
            // it is no step
            const int at = now[layer.bottoms[0]];
            rooms_[at].unread += int(layer.tops.size()) - 1;
            for (const int top : layer.tops) room_of_[top] = now[top] = at;
            continue;
        }
        const Bytes bytes = bytes_of(layer, shape_[layer.tops[0]]);
        const bool is_given = layer.type == "Input";
        int first = -1;
        for (const int bottom : layer.bottoms) {
            const int at = read(bottom);
            if (bottom == layer.bottoms[0]) first = at;
        }
        for (const int top : layer.tops) {
            int at = -1;
            if (bytes == Bytes::same ||
                (bytes == Bytes::in_place && first >= 0 && rooms_[first].unread == 0)) {
                at = first;
                if (at >= 0) rooms_[at].unread++;
            } else if (bytes != Bytes::elsewhere)
                at = room(shape_[top], is_given ? before_all : step);
            if (at >= 0) rooms_[at].unread += kept[top];
            room_of_[top] = now[top] = at;
        }
        step += layer.type != "Split" && layer.type != "MemoryData" && !is_given;
    }
    for (Room& room : rooms_)
        if (room.unread > 0) room.last = step - 1;
}

void BlobPlaces::begin(int64_t rows, int64_t answers) {
    rows_ = rows, answers_ = answers;
    if (plans_.size() > most_plans) plans_.clear();
    const auto [found, is_new] = plans_.try_emplace({rows, answers});
    plan_ = &found->second;
    if (!is_new) return;
    std::vector<Lived> values;
    for (const Room& room : rooms_) {
        int64_t bytes = int64_t(sizeof(float));
        for (size_t i = 0; i < room.shape.size(); i++) {
            if (i == 2) bytes = up(bytes, 16);  // as ncnn has channels
            bytes *= size(room.shape[i]);
        }
        values.push_back({up(bytes, arena_alignment), room.first, room.last});
    }
    found->second = plan_arena(values);
}

int64_t BlobPlaces::size(int64_t said) const {
    return said == some_rows ? rows_ : said == some_answers ? answers_ : said;
}

ncnn::Mat BlobPlaces::mat(int room, const std::vector<int64_t>& shape, char* base,
                          ncnn::Allocator* allocator) const {
    char* data = base + plan_->offsets[room];
    const int w = int(size(shape[0])), h = shape.size() > 1 ? int(size(shape[1])) : 1;
    if (shape.size() == 3) return {w, h, int(size(shape[2])), data, sizeof(float), allocator};
    return {w, h, data, sizeof(float), allocator};
}

ncnn::Mat BlobPlaces::made(int blob, char* base, ncnn::Allocator* allocator) const {
    return room_of_[blob] < 0 ? ncnn::Mat() : mat(room_of_[blob], shape_[blob], base, allocator);
}

ncnn::Mat BlobPlaces::picked(char* base, ncnn::Allocator* allocator) const {
    return mat(picked_, rooms_[picked_].shape, base, allocator);
}

}  // namespace mpsplit
