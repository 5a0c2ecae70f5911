#!/bin/bash
# tidy.sh - what reviewers should not have to say: formatting, clang-tidy's and cppcheck's findings. Exit 1 on any.
set -u
files=$(git ls-files '*.c' '*.h' '*.cc')
bad=0
clang-format --dry-run --Werror $files 2>&1 | head -n 40 || true
clang-format --dry-run --Werror $files >/dev/null 2>&1 || bad=1
cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
    --suppress=missingIncludeSystem -I. -Ibuild $(git ls-files '*.c' | grep -v '^tests/') || bad=1
clang-tidy --quiet --warnings-as-errors='*' \
    --checks='-*,bugprone-*,-bugprone-easily-swappable-parameters,-bugprone-narrowing-conversions,-bugprone-reserved-identifier,clang-analyzer-*,-clang-analyzer-security.insecureAPI.DeprecatedOrUnsafeBufferHandling' \
    $(git ls-files 'base/*.c' 'cache/tier/*.c' 'proto/*.c' 'cluster/*.c' 'rules/*.c' 'worker/*.c' 'worker/model/*.c' 'coordinator/*.c' 'client/*.c') \
    -- -std=gnu17 -D_GNU_SOURCE -DREFRAIN_VERSION='"0"' -I. -Ibuild $(mpicc --showme:compile) \
    $(pkg-config --cflags libzmq libprotobuf-c sqlite3 jansson libutf8proc libxxhash libavformat) 2>/dev/null || bad=1
exit $bad
