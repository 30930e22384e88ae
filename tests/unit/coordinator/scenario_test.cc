// SPDX-License-Identifier: GPL-2.0-or-later
// Golden scripts of the protocol: scenarios/*.txt hold commands and their expected output.
//
//     command
//     ----
//     expected output, up to an empty line
//
// `--rewrite` writes the actual output into the scripts, to be reviewed as a diff.
#include <filesystem>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "scenario_world.h"

namespace {

bool rewrite = false;

std::vector<std::filesystem::path> scripts() {
    std::vector<std::filesystem::path> paths;
    for (const auto &entry : std::filesystem::directory_iterator(HOTSNAP_SCENARIO_DIR)) {
        if (entry.path().extension() == ".txt") {
            paths.push_back(entry.path());
        }
    }
    std::sort(paths.begin(), paths.end());
    return paths;
}

class Scenario : public testing::TestWithParam<std::filesystem::path> {};

TEST_P(Scenario, HappensAsWritten) {
    std::ifstream file(GetParam());
    ASSERT_TRUE(file.is_open());
    hotsnap::scenario::World world;
    std::ostringstream actual, expected;
    std::string line, command;
    bool in_output = false;
    while (std::getline(file, line)) {
        expected << line << "\n";
        if (in_output) {
            in_output = !line.empty();
            continue;
        }
        if (line == "----") {
            actual << line << "\n" << world.execute(command) << "\n";
            command.clear();
            in_output = true;
            continue;
        }
        actual << line << "\n";
        if (!line.empty() && line[0] != '#') {
            ASSERT_TRUE(command.empty()) << "no ---- after the command '" << command << "'";
            command = line;
        }
    }
    ASSERT_TRUE(command.empty()) << "no ---- after the command '" << command << "'";
    if (rewrite) {
        std::ofstream(GetParam()) << actual.str();
    } else {
        EXPECT_EQ(actual.str(), expected.str());
    }
}

INSTANTIATE_TEST_SUITE_P(Scripts, Scenario, testing::ValuesIn(scripts()), [](const auto &info) {
    std::string name = info.param.stem().string();
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
});

} // namespace

int main(int argc, char **argv) {
    testing::InitGoogleTest(&argc, argv);
    for (int i = 1; i < argc; i++) {
        rewrite |= std::string(argv[i]) == "--rewrite";
    }
    return RUN_ALL_TESTS();
}
