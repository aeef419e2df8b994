#include "order_numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <string_view>

namespace mpsplit {

namespace {

void within(const char* what, int64_t number, int64_t most = largest_number, int64_t least = 0) {
    if (number < least || number > most)
        throw BadOrder(std::string(what) + " " + std::to_string(number) + " is not from " +
                       std::to_string(least) + " to " + std::to_string(most));
}

void all_within(const char* what, Numbers numbers, size_t first = 0, size_t step = 1) {
    for (size_t i = first; i < numbers.size(); i += step) within(what, numbers[i]);
}

std::string_view letters(Numbers numbers) {
    return {reinterpret_cast<const char*>(numbers.data()), numbers.size_bytes()};
}

// From a byte on, up to the padding: a folder that stays inside the package.
std::string folder_of(Numbers numbers, size_t begin) {
    const std::string_view padded = letters(numbers).substr(begin);
    const std::string name(padded.substr(0, padded.find('\0')));
    for (size_t at = 0; at <= name.size();) {
        const size_t end = std::min(name.find('/', at), name.size());
        const std::string part = name.substr(at, end - at);
        want(!part.empty() && part != "." && part != "..", "its folder leaves the package");
        at = end + 1;
    }
    return name;
}

void check_save(std::string_view name) {
    const auto fine = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    want(std::all_of(name.begin(), name.end(), fine), "a save has no name of letters and digits");
}

void check(const Question& question) {
    within("slot", question.slot);
    within("position", question.position);
    within("length", question.length, largest_number, 1);
    check(wish_of(question));
}

std::string counted(Numbers numbers, const std::string& not_these) {
    return std::to_string(numbers.size()) + " numbers are " + not_these;
}

}  // namespace

std::string told(const Order& order) {
    const struct {
        const char* name;
        int64_t value;
    } fields[] = {{"slot", order.slot},
                  {"position", order.position},
                  {"count", order.count},
                  {"wanted", order.wanted},
                  {"token", order.token}};
    std::string text = "order " + std::to_string(int64_t(order.verb)) + " (" +
                       verb_facts[size_t(order.verb)].name + ":";
    for (const auto& [name, value] : fields)
        text +=
            std::string(&name != &fields[0].name ? ", " : " ") + name + " " + std::to_string(value);
    return text + ")";
}

void want(bool good, const std::string& why) {
    if (!good) throw BadOrder(why);
}

void check_count(const Order& order) {
    want(order.count >= 1 && order.count <= most_numbers,
         "it brings 1 to " + std::to_string(most_numbers) + " numbers");
}

Wish wish_of(const Question& question) {
    return {question.wanted, question.likely, question.changed, question.temperature};
}

void check(const Wish& wish) {
    within("wanted", wish.wanted, largest_number, wide_wanted - most_cells);
    within("likely", wish.likely, largest_number, -1);
    within("changed", wish.changed, by_tilt | by_mask);
    within("start", wish.start, largest_start, -largest_start);
    within("count", wish.count, wish.wanted == cells_wanted ? most_cells : largest_number);
    want(wish.wanted != wide_wanted, "it wants no cells");
    const bool warm = wish.wanted == blocks_wanted || wish.wanted == cells_wanted ||
                      wish.wanted == cell_wanted || wish.wanted < wide_wanted;
    want(std::isfinite(wish.temperature) && (warm ? wish.temperature > 0 : wish.temperature >= 0),
         "temperature " + std::to_string(wish.temperature) + " is none for " +
             std::to_string(wish.wanted));
}

Parts parts_of(const Order& order, Numbers numbers) {
    Parts found;
    if (order.verb == Verb::step) {
        Question question;
        question.slot = order.slot, question.position = order.position;
        question.length = order.count, question.wanted = order.wanted;
        question.temperature = order.temperature;
        found = {{question}, numbers};
    } else {
        constexpr size_t words = sizeof(Question) / sizeof numbers[0];
        want(order.position >= 1 && size_t(order.position) <= numbers.size() / words,
             counted(numbers, "not " + std::to_string(order.position) + " questions"));
        found.questions.resize(size_t(order.position));
        std::memcpy(static_cast<void*>(found.questions.data()), numbers.data(),
                    found.questions.size() * sizeof(Question));
        found.tokens = numbers.subspan(found.questions.size() * words);
    }
    int64_t lengths = 0;  // of as many questions as there are numbers, none of which overflows it
    for (const Question& question : found.questions) {
        check(question);
        lengths += question.length;
    }
    want(lengths == int64_t(found.tokens.size()), std::to_string(found.tokens.size()) +
                                                      " tokens are not the " +
                                                      std::to_string(lengths) + " of its parts");
    all_within("token", found.tokens);
    return found;
}

void check_slot(const Order& order) { within("slot", order.slot); }

void check_tilt(const Order& order, Numbers changes) {
    check_slot(order);
    within("position", order.position, 1);
    want(changes.size() % 3 == 0, counted(changes, "no three of each token"));
    all_within("token", changes, 3, 3);
    all_within("count", changes, 4, 3);
}

void check_pages(Numbers pages) { all_within("page", pages); }

void check_place(const Order& order, Numbers pages) {
    check_slot(order);
    check_pages(pages);
}

void check_reserve(const Order& order) {
    within("count", order.count, most_numbers, 1);
    within("token", order.token, caches - 1);
}

Kept kept_of(const Order& order, Numbers numbers) {
    check_slot(order);
    Kept found;
    KeptSegment& segment = found.segment;
    want(numbers.size_bytes() > sizeof segment, counted(numbers, "no segment and its folder"));
    std::memcpy(static_cast<void*>(&segment), numbers.data(), sizeof segment);
    within("first", segment.first);
    within("last", segment.last, largest_number, segment.first + 1);
    within("until", segment.until, segment.last, segment.first + 1);
    const std::string_view identity(segment.identity, sizeof segment.identity);
    want(std::all_of(identity.begin(), identity.end(), [](char c) { return c > ' ' && c <= '~'; }),
         "its identity is no plain text");
    check_save(identity.substr(identity.size() - save_name_bytes));
    found.folder = folder_of(numbers, sizeof segment);
    return found;
}

Swept swept_of(const Order& order, Numbers numbers) {
    const size_t most = (numbers.size_bytes() - 1) / save_name_bytes;
    want(order.position >= 0 && size_t(order.position) <= most,
         counted(numbers, "not " + std::to_string(order.position) + " saves and a folder"));
    Swept found;
    const size_t names = size_t(order.position) * save_name_bytes;
    for (size_t at = 0; at < names; at += save_name_bytes) {
        found.saves.emplace_back(letters(numbers).substr(at, save_name_bytes));
        check_save(found.saves.back());
    }
    found.folder = folder_of(numbers, names);
    return found;
}

}  // namespace mpsplit
