#!/bin/bash
# A command on a fresh machine: Debian with python3, venv, git and make, an ordinary user, an empty environment, and a
# clone of what is committed. Nothing of this machine is there but its network; the copy is gone afterwards.
#   fresh.sh 'make test'
. "$(dirname "$(readlink -f "$0")")/debian.sh"
TOP=$(git -C "$(dirname "$(readlink -f "$0")")" rev-parse --show-toplevel)
need git util-linux
debian fresh "python3,python3-venv,git,make"
COPY=$(mktemp -d "$LAB/copy.XXXXXX")
ROOT=$COPY/root
away() { umount --recursive --lazy "$ROOT" 2>/dev/null || true; rm -rf --one-file-system "$COPY"; }
trap away EXIT
mkdir "$ROOT" "$COPY/written" "$COPY/work"
mount -t overlay fresh -o "lowerdir=$LAB/fresh,upperdir=$COPY/written,workdir=$COPY/work" "$ROOT"
trust "$ROOT"
chroot "$ROOT" useradd --create-home --shell /bin/bash dev
git -c safe.directory='*' clone --quiet --no-local "$TOP" "$ROOT/home/dev/flowstate-daemon"
chroot "$ROOT" chown -R dev: /home/dev/flowstate-daemon

# Processes, names and mounts of its own: whatever the command leaves behind ends with it, and it with unshare (a change
# of the user makes the kernel forget that, hence a second time).
unshare --mount --propagation private --pid --ipc --uts --fork --kill-child=KILL bash -euc '
  root=$1; command=$2
  hostname fresh
  mount -t proc proc "$root/proc"
  mount -t sysfs -o ro sysfs "$root/sys"
  mount -t tmpfs -o mode=1777 tmp "$root/tmp"
  mount -t tmpfs -o mode=755 dev "$root/dev"
  mkdir "$root/dev/shm"
  mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
  for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  ln -s /proc/self/fd "$root/dev/fd"
  exec env -i --default-signal TERM=dumb PATH=/usr/sbin:/usr/bin chroot "$root" \
    setpriv --reuid=dev --regid=dev --init-groups --reset-env --no-new-privs --pdeathsig KILL \
    bash -c "cd ~/flowstate-daemon && $command"' fresh "$ROOT" "$1" &
# Waited for in the background: unshare is deaf to both signals, and a shell to its traps, while it waits.
trap 'kill -KILL $!; wait $! 2>/dev/null || exit 130' INT TERM
wait $!
