#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Usage: pull-lab.sh TREE TESTS RESULT   (in the project's folder)
# The step of a KernelCI pull lab that runs a job: guest tests on the kernel that was built in TREE.
# Leaves RESULT.ktap, and RESULT.status with pass, fail or incomplete, which are KernelCI's words.
set -u
tree=$1 tests=$2 result=$3

status=0
KERNEL=$tree dma-rehearsal test --tests "$tests" --output "ktap=$result.ktap" || status=$?
case $status in
0) word=pass ;;
1) word=fail ;;
*) word=incomplete ;; # not the kernel's fault: a wrong option, no environment, no verdict
esac
echo "$word" >"$result.status"
exit "$status"
