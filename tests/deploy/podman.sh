#!/bin/bash
# podman and buildah where neither systemd nor a delegated cgroup tree is at hand, with all state in the cache folder.
#   podman.sh run|exec|stop|…      podman's own words
#   podman.sh buildah bud …        buildah, on the same images
#   podman.sh down                 removes what containers left of networks, and the namespace
# All calls share one mount namespace in which /sys/fs/cgroup is a plain cgroup2 tree: crun refuses a mixed one.
. "$(dirname "$(readlink -f "$0")")/debian.sh"
need buildah podman crun nftables netavark aardvark-dns
STORE=$LAB/containers
SPACE=$STORE/space
mkdir -p "$SPACE"
export CONTAINERS_STORAGE_CONF=$STORE/storage.conf CONTAINERS_CONF=$STORE/containers.conf BUILDAH_ISOLATION=chroot

close() {
  umount "$SPACE/mounts" 2>/dev/null || true
  umount "$SPACE" 2>/dev/null || true
}

if [ "${1:-}" = down ]; then close; exit 0; fi
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
runroot = "$STORE/run"
graphroot = "$STORE/graph"
END
cat >"$CONTAINERS_CONF" <<END
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
cgroups = "disabled"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
healthcheck_events = false
[network]
network_backend = "netavark"
network_config_dir = "$STORE/networks"
END
if ! mountpoint -q "$SPACE"; then
  mount --bind "$SPACE" "$SPACE"
  mount --make-private "$SPACE"
  touch "$SPACE/mounts"
  unshare --mount="$SPACE/mounts" --propagation private sh -ec '
    umount -R /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup'
fi
program=podman
if [ "${1:-}" = buildah ]; then program=buildah; shift; fi
exec nsenter --mount="$SPACE/mounts" --wd="$PWD" "$program" "$@"
