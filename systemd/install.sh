#!/bin/sh
# Installs the daemon on a Debian-like host, or takes it away again: `make install`, `make uninstall`.
#
#   DESTDIR  a folder that stands for / (for packages and tests): files only, nothing is started or created outside
#   PREFIX   where unit files and the command go, /usr/local
#   APPDIR   where the daemon and its own Python environment live, /opt/flowstate-daemon
#   PYTHON   the Python to build on, 3.11 or newer; it must be readable for everybody
#
# Doing it twice is doing it once. A failure leaves an earlier installation as it was. Edited configuration stays.
set -eu

action=${1:?install or uninstall}
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
APPDIR=${APPDIR:-/opt/flowstate-daemon}
PYTHON=${PYTHON:-python3}

DESTDIR=${DESTDIR%/}
source=$(cd "$(dirname "$0")/.." && pwd)
etc=$DESTDIR/etc/flowstate-daemon
units=$DESTDIR$PREFIX/lib/systemd/system
app=$DESTDIR$APPDIR
new=$app.new

die() {
  echo "$action: $*" >&2
  exit 1
}

# Without DESTDIR this host is changed, and its systemd is told; in a chroot there is none to tell.
here() { [ -z "$DESTDIR" ]; }
systemd_runs() { here && [ -d /run/systemd/system ]; }

look_first() {
  for path in "$DESTDIR" "$PREFIX" "$APPDIR"; do
    case $path in
      "" | /*) ;;
      *) die "$path is not an absolute path" ;;
    esac
    # These go into unit files and first lines of scripts, where quoting differs from shell to systemd to kernel.
    case $path in *[!A-Za-z0-9/._+-]*) die "$path: only letters, digits and / . _ + - may be in a path here" ;; esac
  done
  if here && [ "$(id -u)" != 0 ]; then
    die "root is needed: sudo make $action, or DESTDIR=/some/folder make $action"
  fi
}

# A Python in somebody's home is out of the service's sight (ProtectHome=).
fit_python() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed: make install PYTHON=/usr/bin/python3"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || die "the module venv is missing: apt-get install python3-venv"
  base=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))')
  case $base in
    /home/* | /root/*) die "$base is in a home folder, which the service cannot see: make install PYTHON=/usr/bin/python3" ;;
  esac
}

# Built beside the old one and put in its place in one step, with the paths that it will have there.
build_app() {
  rm -rf "$new"
  mkdir -p "$(dirname "$app")"
  trap 'rm -rf "$new"' EXIT
  "$base" -m venv --prompt flowstate-daemon "$new"
  "$new/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile -c "$source/constraints.txt" "$source"
  "$new/bin/python" -m compileall -q -s "$new" -p "$APPDIR" "$new/lib" || die "the code does not compile"
  grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | while read -r file; do
    sed -i "s|$new|$APPDIR|g" "$file"
  done
  mkdir -p "$new/share/doc"
  cp -R "$source/config" "$new/share/config"
  cp "$source/docs/systemd.md" "$source/README.md" "$source/CHANGELOG.md" "$source/LICENSE" "$new/share/doc/"
  chmod -R go+rX,go-w "$new"
  rm -rf "$app.old"
  [ ! -e "$app" ] || mv "$app" "$app.old"
  mv "$new" "$app"
  rm -rf "$app.old"
  mkdir -p "$DESTDIR$PREFIX/bin"
  ln -sfn "$APPDIR/bin/flowstate-daemon" "$DESTDIR$PREFIX/bin/flowstate-daemon"
}

install_units() {
  mkdir -p "$units" "$DESTDIR$PREFIX/lib/sysusers.d" "$DESTDIR$PREFIX/lib/tmpfiles.d"
  for unit in "$source"/systemd/*.service "$source"/systemd/*.socket "$source"/systemd/*.target; do
    sed "s|/opt/flowstate-daemon|$APPDIR|g" "$unit" >"$units/$(basename "$unit")"
    chmod 644 "$units/$(basename "$unit")"
  done
  install -m 644 "$source/systemd/sysusers.conf" "$DESTDIR$PREFIX/lib/sysusers.d/flowstate-daemon.conf"
  install -m 644 "$source/systemd/tmpfiles.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/flowstate-daemon.conf"
}

install_config() {
  mkdir -p "$etc"
  put_config flowstate-daemon.toml flowstate-daemon.toml 640
  put_config environment.sample environment 600
}

put_config() {
  if [ ! -e "$etc/$2" ]; then
    install -m "$3" "$source/config/$1" "$etc/$2"
  elif ! cmp -s "$source/config/$1" "$etc/$2"; then
    echo "kept       /etc/flowstate-daemon/$2, which was edited; the new sample: $APPDIR/share/config/$1"
  fi
}

enter() {
  if here; then
    systemd-sysusers "$PREFIX/lib/sysusers.d/flowstate-daemon.conf"
    systemd-tmpfiles --create "$PREFIX/lib/tmpfiles.d/flowstate-daemon.conf"
  fi
  if systemd_runs; then systemctl daemon-reload; fi
}

say_next() {
  echo "installed  $APPDIR ($("$app/bin/python" -m flowstate_daemon --version))"
  if systemd_runs && systemctl --quiet is-active flowstate-daemon.service; then
    echo "next       systemctl restart flowstate-daemon"
    return
  fi
  cat <<'NEXT'
next       1. set REDIS_URL, RESEND_FROM_EMAIL and FRONTEND_URL in /etc/flowstate-daemon/environment
           2. put secrets into /etc/credstore/, such as flowstate-daemon.resend_api_key (docs/systemd.md)
           3. systemctl enable --now flowstate-daemon.socket flowstate-daemon.service
           4. systemctl status flowstate-daemon
NEXT
}

leave() {
  systemd_runs || return 0
  loaded=$(systemctl list-units --all --plain --no-legend 'flowstate-daemon.*' 'flowstate-daemon@*' 'flowstate-daemon-failed*' | cut -d' ' -f1)
  for unit in $loaded; do
    case $unit in
      *.service | *.socket) systemctl disable --now --quiet "$unit" ;;
      *.target) systemctl stop "$unit" ;;
    esac
  done
}

remove() {
  leave
  for unit in "$source"/systemd/*.service "$source"/systemd/*.socket "$source"/systemd/*.target; do
    rm -f "$units/$(basename "$unit")"
  done
  rm -f "$DESTDIR$PREFIX/lib/sysusers.d/flowstate-daemon.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/flowstate-daemon.conf"
  [ ! -L "$DESTDIR$PREFIX/bin/flowstate-daemon" ] || rm -f "$DESTDIR$PREFIX/bin/flowstate-daemon"
  rm -rf "$app" "$new" "$app.old"
  if systemd_runs; then systemctl daemon-reload; fi
  cat <<'LEFT'
removed    the daemon and its units
left       /etc/flowstate-daemon (configuration), /etc/credstore/flowstate-daemon.* (secrets),
           /var/lib/flowstate-daemon (mails of the outbox), the account flowstate-daemon
next       to remove these as well: rm -r /etc/flowstate-daemon /var/lib/flowstate-daemon; userdel flowstate-daemon
LEFT
}

look_first
case $action in
  install)
    fit_python
    build_app
    install_units
    install_config
    enter
    say_next
    ;;
  uninstall) remove ;;
  *) die "install or uninstall" ;;
esac
