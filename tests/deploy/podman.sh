#!/bin/bash
# podman and buildah where neither systemd nor a delegated cgroup tree is at hand, with all state in the cache folder.
#   podman.sh run|exec|stop|…      podman's own words
#   podman.sh buildah bud …        buildah, on the same images
#   podman.sh down                 ends the namespace, drops volumes, networks, and layers that nothing has needed for a day
# All calls share one mount namespace in which /sys/fs/cgroup is a plain cgroup2 tree: crun refuses a mixed one.
. "$(dirname "$(readlink -f "$0")")/debian.sh"
need buildah podman crun iptables netavark aardvark-dns
STORE=$LAB/containers
SPACE=$STORE/space
mkdir -p "$SPACE"
export CONTAINERS_STORAGE_CONF=$STORE/storage.conf CONTAINERS_CONF=$STORE/containers.conf BUILDAH_ISOLATION=chroot

# podman-compose calls this several times at once: nobody may find a file half written.
put() { cat >"$1.$$" && mv "$1.$$" "$1"; }
put "$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
runroot = "$STORE/run"
graphroot = "$STORE/graph"
END
put "$CONTAINERS_CONF" <<END
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
forget() { # name server and firewall chains that netavark leaves behind, unless a network still uses them
  if iptables-save | grep -q '^:NETAVARK-[0-9A-F]\{8\}'; then return; fi
  local table names=/run/containers/networks/aardvark-dns server
  server=$(cat $names/aardvark.pid 2>/dev/null) || true
  if [ -n "$server" ] && [ "$(cat "/proc/$server/comm" 2>/dev/null)" = aardvark-dns ]; then kill "$server"; fi
  rm -f $names/*
  for table in filter nat; do
    iptables-save -t $table | sed -n 's/^-A\( .*NETAVARK.*\)/-D\1/p' | xargs -rL1 iptables -t $table
    iptables-save -t $table | sed -n 's/^:\(NETAVARK[^ ]*\) .*/-X \1/p' | xargs -rL1 iptables -t $table
  done
}
inside=(nsenter --mount="$SPACE/mounts" --wd="$PWD")
case ${1:-} in
  buildah) exec "${inside[@]}" "$@" ;;
  down)
    "${inside[@]}" podman image prune --force --filter until=24h >/dev/null
    "${inside[@]}" podman volume prune --force >/dev/null
    "${inside[@]}" podman network prune --force >/dev/null
    forget
    umount "$SPACE/mounts" "$SPACE" ;;
  *) exec "${inside[@]}" podman "$@" ;;
esac
