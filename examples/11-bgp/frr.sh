#!/bin/sh
# frr.sh PROGRAM: one of FRR's daemons, in the foreground, with its sockets in the node's own directory.
# Debian's are built to insist on the groups frr and frrvty. In a mount namespace of its own root is a member of both.
here=$(cd "$(dirname "$0")" && pwd) run=$XFRMI_RUNTIME_DIR
sed '/^frr/d; $a frr:x:0:root\nfrrvty:x:0:root' /etc/group >"$run/group"
case $1 in
    zebra) config=/dev/null ;;
    *) config=$here/$XFRMI_LAB_NODE.conf && until [ -S "$run/zserv" ]; do sleep 0.1; done ;;
esac
export run config program="$1"
exec unshare --mount sh -c 'mount --bind "$run/group" /etc/group && exec "/usr/lib/frr/$program" \
    --user root --group root --config_file "$config" --pid_file "$run/$program.pid" \
    --socket "$run/zserv" --vty_socket "$run" --vty_port 0 --log stdout'
