#include <doctest/doctest.h>
#include <string>
#include <vector>

#include "engine/text/suggest.h"

using adder::did_you_mean;
using adder::nearest;

TEST_CASE("suggest: the nearest candidate") {
  const std::vector<std::string> keys{"learning_rate", "batch_size", "max_length", "seed"};
  CHECK(nearest("learning_rat", keys) == "learning_rate");
  CHECK(nearest("bacth_size", keys) == "batch_size");
  CHECK(nearest("maxlength", keys) == "max_length");
  CHECK(nearest("", keys) == "seed");
  CHECK(nearest("seed", keys) == "seed");
  CHECK(nearest("Batch_Size", keys) == "batch_size");
  CHECK(did_you_mean("sede", keys) == "; did you mean 'seed'?");
}

TEST_CASE("suggest: ties, transpositions, cases and long words") {
  CHECK(nearest("ax", std::vector<std::string>{"ab", "ac"}) == "ab");
  // One swap is one edit: nearer than two substitutions, not nearer than one.
  CHECK(nearest("abcd", std::vector<std::string>{"axyd", "acbd"}) == "acbd");
  CHECK(nearest("a_log", std::vector<std::string>{"b_log", "A_log"}) == "A_log");
  CHECK(nearest("x", {}).empty());
  CHECK(did_you_mean("x", {}).empty());
  const std::string huge(1 << 20, 'x');
  CHECK(nearest(huge, std::vector<std::string>{"y", huge}) == huge);
}
