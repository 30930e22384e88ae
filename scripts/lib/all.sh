# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# All of the shell library, for the scripts that build.

# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=packages.sh
source "$HOTSNAP_ROOT/scripts/lib/packages.sh"
# shellcheck source=apt-source.sh
source "$HOTSNAP_ROOT/scripts/lib/apt-source.sh"
# shellcheck source=qemu-source.sh
source "$HOTSNAP_ROOT/scripts/lib/qemu-source.sh"
# shellcheck source=qemu-series.sh
source "$HOTSNAP_ROOT/scripts/lib/qemu-series.sh"
# shellcheck source=builds.sh
source "$HOTSNAP_ROOT/scripts/lib/builds.sh"
