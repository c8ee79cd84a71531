#!/bin/sh
# The compiler of a fuzzing build: `cargo xtask fuzz` names it as cargo's
# RUSTC_WORKSPACE_WRAPPER, so that our own crates are instrumented, and all others
# are those of any release build. Flags as of cargo-fuzz, without a sanitizer.
exec "$@" \
	-Cpasses=sancov-module \
	-Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares \
	-Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
	-Ccodegen-units=1 \
	-Cdebug-assertions=on
