// Capture of streams into graphs, and their replay.
#include <algorithm>

#include "driver.h"

using namespace emu::driver;

namespace {

// Every captured operation that nothing follows must have been joined back into the stream where the capture began.
bool all_joined(const Capture& capture) {
    std::vector<bool> followed(capture.graph.nodes.size());
    for (const Node& node : capture.graph.nodes) {
        for (const size_t before : node.after) followed[before] = true;
    }
    for (const size_t node : capture.origin->frontier) followed[node] = true;
    return std::all_of(followed.begin(), followed.end(), [](bool f) { return f; });
}

void leave_capture(const std::shared_ptr<Capture>& capture) {
    // A copy: the last reference may go with the last member.
    const std::shared_ptr<Capture> keep = capture;
    for (const auto& stream : objects().streams) {
        if (stream->capture != keep) continue;
        stream->capture = nullptr;
        stream->frontier.clear();
    }
}

// The nodes in an order that keeps what must come before, and is otherwise drawn from the seed.
std::vector<size_t> some_order(const Graph& graph) {
    std::vector<size_t> order, ready;
    std::vector<size_t> missing(graph.nodes.size());
    for (size_t i = 0; i < graph.nodes.size(); i++) {
        missing[i] = graph.nodes[i].after.size();
        if (missing[i] == 0) ready.push_back(i);
    }
    while (!ready.empty()) {
        const size_t choice =
            streams_are_lazy() ? objects().order.below(static_cast<uint32_t>(ready.size())) : size_t{0};
        const size_t node = ready[choice];
        ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(choice));
        order.push_back(node);
        for (size_t i = 0; i < graph.nodes.size(); i++) {
            const auto& after = graph.nodes[i].after;
            missing[i] -= static_cast<size_t>(std::count(after.begin(), after.end(), node));
            if (missing[i] == 0 && std::find(after.begin(), after.end(), node) != after.end()) ready.push_back(i);
        }
    }
    return order;
}

}  // namespace

CU cuStreamBeginCapture_v2(void* handle, int) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    if (stream->is_null()) return add(stream_capture_unsupported, "the null stream cannot be captured");
    if (stream->capture) return add(invalid_value, "the stream is capturing already");
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream.get();
    stream->capture->members.push_back(stream.get());
    stream->frontier.clear();
    return success;
}
CU_ALIAS(cuStreamBeginCapture, cuStreamBeginCapture_v2);

CU cuStreamIsCapturing(void* handle, int* status) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    enum { none = 0, active = 1, invalidated = 2 };
    *status = !stream->capture ? none : stream->capture->invalid ? invalidated : active;
    return success;
}

CU cuStreamEndCapture(void* handle, void** graph) {
    const Call call(__func__);
    const auto stream = find_stream(handle);
    if (!stream) return invalid_handle;
    *graph = nullptr;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return add(invalid_value, "the stream is not capturing");
    if (capture->origin != stream.get()) {
        return add(stream_capture_unmatched, "a capture must end on the stream where it began");
    }
    const bool joined = all_joined(*capture);
    leave_capture(capture);
    if (capture->invalid) return add(stream_capture_invalidated, "the capture was invalidated by an earlier mistake");
    if (!joined) return add(stream_capture_unjoined, "work captured on another stream was not joined back");
    *graph = objects().graphs.adopt(std::make_unique<Graph>(std::move(capture->graph)));
    return success;
}

CU cuGraphInstantiateWithFlags(void** executable, void* handle, unsigned long long) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const Graph* const graph = objects().graphs.find(handle);
    if (!graph) return invalid_value;
    *executable = objects().executable_graphs.adopt(std::make_unique<Graph>(*graph));
    return success;
}

CU cuGraphInstantiate_v2(void** executable, void* graph, void**, char*, size_t) {
    return cuGraphInstantiateWithFlags(executable, graph, 0);
}

CU cuGraphGetNodes(void* handle, void** nodes, size_t* count) {
    const Call call(__func__);
    const Graph* const graph = objects().graphs.find(handle);
    if (!graph) return invalid_value;
    if (nodes) return add(not_supported, "graph nodes can be counted, not looked at");
    *count = graph->nodes.size();
    return success;
}

CU cuGraphUpload(void* executable, void* stream) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    return objects().executable_graphs.find(executable) && find_stream(stream) ? success : invalid_value;
}

CU cuGraphLaunch(void* executable, void* handle) {
    const Call call(__func__);
    if (const int error = call.refused()) return error;
    const Graph* const graph = objects().executable_graphs.find(executable);
    const auto stream = find_stream(handle);
    if (!graph || !stream) return invalid_value;
    return submit_graph(stream, *graph, some_order(*graph));
}

CU cuGraphExecDestroy(void* executable) {
    const Call call(__func__);
    return objects().executable_graphs.destroy(executable) ? success : invalid_value;
}

CU cuGraphDestroy(void* graph) {
    const Call call(__func__);
    return objects().graphs.destroy(graph) ? success : invalid_value;
}
