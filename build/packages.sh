#!/bin/bash
# Installs the missing Debian packages of packages.txt. A user other than root gets their list instead.
set -euo pipefail
cd "$(dirname "$0")"
missing=()
while read -r package; do
    [[ -z $package || $package == \#* ]] && continue
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done < packages.txt
# The build of the guest downloads packages, too, and needs apt's package lists.
apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || missing+=("")
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "vch needs these Debian packages; as root: apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Do not start services during the installation: the tests start docker.io and docker-registry themselves.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
apt-get update -q >/dev/null
for package in "${missing[@]}"; do
    [ -z "$package" ] || set -- "$@" "$package"
done
[ $# -eq 0 ] || apt-get install -q -y --no-install-recommends "$@" >/dev/null
