# Sourced by the other scripts: a Debian root file system in a cache folder, and throw-away copies of it.
# Needs root on Debian. Touches the cache folder, and installs the packages it is asked for; nothing else.
set -euo pipefail
LAB=${FLOWSTATE_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/flowstate-daemon/lab}
SUITE=${SUITE:-bookworm}
mkdir -p "$LAB"

say() { printf '== %s\n' "$*" >&2; }

quietly() { # quietly NAME COMMAND…: its words go to a file, and are shown only when it fails
  local log=$LAB/$1.log; shift
  "$@" >"$log" 2>&1 || { tail -30 "$log" >&2; say "failed: $*; all of it is in $log"; return 1; }
}

need() { # need PACKAGE…: on this machine
  [ "$(id -u)" = 0 ] || { say "this needs root"; exit 69; }
  local missing=() package
  for package; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "apt-get install ${missing[*]}"
  quietly apt-update apt-get update
  quietly apt env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

archive() { # the Debian archive that this machine uses
  cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
    awk '/^URIs:/ {print $2; exit} /^deb / {for (i = 2; i <= NF; i++) if ($i ~ /^http/) {print $i; exit}}'
}

trust() { # trust ROOT: what this machine trusts, and how it finds names, so that registries answer inside as outside
  cp -L /etc/resolv.conf "$1/etc/resolv.conf"
  mkdir -p "$1/usr/local/share/ca-certificates"
  cp /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/" 2>/dev/null || true
  quietly trust chroot "$1" update-ca-certificates
}

debian() { # debian NAME PACKAGE,…: a minimal root in $LAB/NAME, made once (a minute)
  local wanted="$SUITE ca-certificates,$2"
  [ "$(cat "$LAB/$1.made" 2>/dev/null)" = "$wanted" ] && return
  need debootstrap
  rm -rf --one-file-system "${LAB:?}/$1" "$LAB/$1.made"
  say "debootstrap $SUITE into $LAB/$1"
  quietly "$1" debootstrap --variant=minbase --include="ca-certificates,$2" "$SUITE" "$LAB/$1" "$(archive)"
  trust "$LAB/$1"
  echo "$wanted" >"$LAB/$1.made"
}
