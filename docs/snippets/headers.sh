#!/usr/bin/env bash
# Headers for classify.cpp, unpacked into a folder; nothing is installed. They are Debian 13's
# libonnxruntime-dev and nlohmann-json3-dev: an older Debian's own mirror is asked for that release.
set -euo pipefail
place=$(mkdir -p "$1/lists/partial" && cd "$1" && pwd)
# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format "\$(RELEASE) \$(COMPONENT) \$(SITE)" |
    awk -v name="$codename" '$1 == name && $2 == "main" && /debian$/ && !seen++ { print $3 }')
if [ -z "$mirror" ]; then
    echo "not a Debian: install libonnxruntime-dev and nlohmann-json3-dev by other means" >&2
    exit 1
fi
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror trixie main" > "$place/sources.list"
options=(
    -qq -o "Dir::Etc::sourcelist=$place/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$place/lists" -o "Dir::Cache=$place"
    -o Acquire::Languages=none -o APT::Sandbox::User=root
)
apt-get "${options[@]}" update
(cd "$place" && apt-get "${options[@]}" download libonnxruntime-dev nlohmann-json3-dev)
for package in "$place"/*.deb; do dpkg --extract "$package" "$place"; done
rm -rf "$place"/lists "$place"/*.deb "$place"/*.bin
