#!/bin/sh
# Installs the daemon on a Debian-like host, or removes it: `make install`, `make uninstall`.
#
#   DESTDIR  a folder used as / (for packages and tests): only files are written, nothing outside it changes
#   PREFIX   prefix of the unit files and the command, /usr/local
#   APPDIR   the daemon, its Python environment and its documentation, /opt/flowstate-daemon: a link to a version in
#            APPDIR.versions
#   PYTHON   the Python to use, 3.11 or newer; every user must be able to read it
#   EXTRA    otel: also install the packages for OpenTelemetry traces
#
# Idempotent. After a failure an earlier installation is unchanged. Edited configuration is kept.
set -eu

action=${1:?usage: install.sh install|uninstall}
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
APPDIR=${APPDIR:-/opt/flowstate-daemon}
PYTHON=${PYTHON:-python3}
EXTRA=${EXTRA:-}

DESTDIR=${DESTDIR%/}
source=$(cd "$(dirname "$0")/.." && pwd)
etc=$DESTDIR/etc/flowstate-daemon
units=$DESTDIR$PREFIX/lib/systemd/system
app=$DESTDIR$APPDIR
versions=$app.versions
builder=

die() {
  echo "$action: $*" >&2
  exit 1
}

# Without DESTDIR the host itself is changed and systemd is reloaded; in a chroot systemd is not running.
here() { [ -z "$DESTDIR" ]; }
systemd_runs() { here && [ -d /run/systemd/system ]; }

check_arguments() {
  for path in "$DESTDIR" "$PREFIX" "$APPDIR"; do
    case $path in
      "" | /*) ;;
      *) die "$path is not an absolute path" ;;
    esac
    # These paths are written to unit files and shebang lines; shell, systemd and kernel quote differently.
    case $path in *[!A-Za-z0-9/._+-]*) die "$path: this path may contain only letters, digits and / . _ + -" ;; esac
  done
  case $EXTRA in "" | otel) ;; *) die "EXTRA=$EXTRA: the only extra is otel" ;; esac
  if here && [ "$(id -u)" != 0 ]; then
    die "root is required: sudo make $action, or DESTDIR=/some/folder make $action"
  fi
}

# The service cannot read a Python in a home folder (ProtectHome=).
check_python() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is required: make install PYTHON=/usr/bin/python3"
  "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || die "the Python module venv is missing: apt-get install python3-venv"
  base=$("$PYTHON" -c 'import os, sys; print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))')
  case $base in
    /home/* | /root/*) die "$base is in a home folder, which the service cannot read: make install PYTHON=/usr/bin/python3" ;;
  esac
}

# Each version has a folder of its own in $versions, and $app is a link to one of them. The start line of the command
# names the folder itself, so a process never sees files of another version, however long it runs.
build_app() {
  mkdir -p "$versions"
  number=1
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source/pyproject.toml")
  until mkdir "$versions/$version-$number" 2>/dev/null; do number=$((number + 1)); done
  new=$versions/$version-$number
  final=${new#"$DESTDIR"}
  trap 'rm -rf "$new"; rmdir "$versions" 2>/dev/null || true' EXIT
  trap 'exit 130' INT TERM
  builder=$new/builder
  "$base" -m venv "$builder"
  "$base" -m venv --without-pip --prompt flowstate-daemon "$new"
  pip install $hashed -r "$source/requirements-build.txt"
  pip wheel --no-index --no-deps --no-build-isolation --wheel-dir "$builder/wheels" "$source"
  pip --python "$new/bin/python" install --no-compile --no-deps $hashed -r "$source/requirements${EXTRA:+-$EXTRA}.txt"
  pip --python "$new/bin/python" install --no-compile --no-deps --no-index --find-links "$builder/wheels" flowstate-daemon
  rm -rf "$builder"
  "$new/bin/python" -m compileall -q -s "$new" -p "$final" "$new/lib" || die "the code does not compile"
  if [ -n "$DESTDIR" ]; then
    grep -rlIF "$new" "$new/bin" "$new/pyvenv.cfg" | while read -r file; do
      sed -i "s|$new|$final|g" "$file"
    done
  fi
  mkdir -p "$new/share/doc/flowstate-daemon"
  cp -R "$source/config" "$new/share/config"
  # The same layout as the repository, so that the links between the pages work.
  cp -R "$source/docs" "$source/README.md" "$source/CHANGELOG.md" "$source/CONTRIBUTING.md" "$source/SECURITY.md" "$source/LICENSE" \
    "$new/share/doc/flowstate-daemon/"
  chmod -R go+rX,go-w "$new"
  trap - EXIT
}

# pip of the builder: no package is built from source, and its files must have the hashes that are listed.
hashed="--require-hashes --only-binary :all:"
pip() { "$builder/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

# One rename: a file opened through $app belongs to the old version or to the new one, and always exists.
switch_app() {
  previous=$(readlink "$app" || true)
  if [ -d "$app" ] && [ ! -L "$app" ]; then # installed before versions had folders; this one switch is not atomic
    rm -rf "$versions/before"
    mv "$app" "$versions/before"
    previous=before
  fi
  ln -sfn "$(basename "$versions")/$(basename "$new")" "$app.link"
  mv -fT "$app.link" "$app"
  mkdir -p "$DESTDIR$PREFIX/bin"
  ln -sfn "$APPDIR/bin/flowstate-daemon" "$DESTDIR$PREFIX/bin/flowstate-daemon"
}

# Keep the previous version, and every version whose libraries a process has loaded: it may read more of its files.
remove_old_versions() {
  for old in "$versions"/*; do
    case $(basename "$old") in
      "$(basename "$new")" | "$(basename "${previous:-none}")") continue ;;
    esac
    grep -qsF " $old/" /proc/[0-9]*/maps || rm -rf "$old"
  done
}

# Generated by the program itself. PREFIX is on the search path of each shell.
completion_files="bash:share/bash-completion/completions/flowstate-daemon zsh:share/zsh/site-functions/_flowstate-daemon fish:share/fish/vendor_completions.d/flowstate-daemon.fish"

install_completion() {
  for entry in $completion_files; do
    file=$DESTDIR$PREFIX/${entry#*:}
    mkdir -p "$(dirname "$file")"
    "$new/bin/python" -m flowstate_daemon completion "${entry%%:*}" >"$file.new"
    chmod 644 "$file.new"
    mv -f "$file.new" "$file"
  done
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
    echo "kept       /etc/flowstate-daemon/$2, which was edited; new sample: $APPDIR/share/config/$1"
  fi
}

register_units() {
  if here; then
    systemd-sysusers "$PREFIX/lib/sysusers.d/flowstate-daemon.conf"
    systemd-tmpfiles --create "$PREFIX/lib/tmpfiles.d/flowstate-daemon.conf"
  fi
  if systemd_runs; then systemctl daemon-reload; fi
}

print_next_steps() {
  echo "installed  $APPDIR ($("$app/bin/python" -m flowstate_daemon --version))"
  if systemd_runs && systemctl --quiet is-active flowstate-daemon.service; then
    echo "next       systemctl restart flowstate-daemon"
    return
  fi
  cat <<NEXT
next       1. set REDIS_URL, RESEND_FROM_EMAIL and FRONTEND_URL in /etc/flowstate-daemon/environment
           2. put secrets into /etc/credstore/, such as flowstate-daemon.resend_api_key ($APPDIR/share/doc/flowstate-daemon/docs/systemd.md)
           3. systemctl enable --now flowstate-daemon.socket flowstate-daemon.service
           4. systemctl status flowstate-daemon
NEXT
}

stop_units() {
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
  stop_units
  for unit in "$source"/systemd/*.service "$source"/systemd/*.socket "$source"/systemd/*.target; do
    rm -f "$units/$(basename "$unit")"
  done
  for entry in $completion_files; do rm -f "$DESTDIR$PREFIX/${entry#*:}"; done
  rm -f "$DESTDIR$PREFIX/lib/sysusers.d/flowstate-daemon.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/flowstate-daemon.conf"
  [ ! -L "$DESTDIR$PREFIX/bin/flowstate-daemon" ] || rm -f "$DESTDIR$PREFIX/bin/flowstate-daemon"
  rm -rf "$app" "$app.link" "$versions"
  if systemd_runs; then systemctl daemon-reload; fi
  cat <<'LEFT'
removed    the daemon and its units
kept       /etc/flowstate-daemon (configuration), /etc/credstore/flowstate-daemon.* (secrets),
           /var/lib/flowstate-daemon (emails in the outbox), the account flowstate-daemon
next       to remove these too: rm -r /etc/flowstate-daemon /var/lib/flowstate-daemon; userdel flowstate-daemon
LEFT
}

check_arguments
case $action in
  install)
    check_python
    build_app
    switch_app
    remove_old_versions
    install_completion
    install_units
    install_config
    register_units
    print_next_steps
    ;;
  uninstall) remove ;;
  *) die "usage: install.sh install|uninstall" ;;
esac
