#include "layers.h"

#include "all_gather.h"
#include "all_reduce.h"
#include "attention_layer.h"
#include "broadcast.h"
#include "quantised_linear.h"
#include "recv.h"
#include "send.h"
#include "top_k.h"

namespace mpsplit {
namespace {

template <class L>
ncnn::Layer* make(void* setting) {
    ncnn::Layer* layer = new L;
    layer->userdata = setting;  // already when it reads its parameters
    return layer;
}

void unmake(ncnn::Layer* layer, void*) { delete layer; }

constexpr struct {
    const char* type;
    ncnn::layer_creator_func make;
} layers[] = {
    {"AllReduce", make<AllReduce>},
    {"AllGather", make<AllGather>},
    {"Broadcast", make<Broadcast>},
    {"Send", make<Send>},
    {"Recv", make<Recv>},
    {"TopK", make<TopK>},
    {"QLinear", make<QuantisedLinear>},
    {"Attention", make<AttentionLayer>},
};

}  // namespace

void add_layers(ncnn::Net& net, Setting& setting) {
    for (const auto& [type, make] : layers) net.register_custom_layer(type, make, unmake, &setting);
}

}  // namespace mpsplit
