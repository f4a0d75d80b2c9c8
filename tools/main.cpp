#include "tools/commands/commands.h"

int main(int argc, char** argv) {
  return adder::tools::run_adder(argc, argv);
}
