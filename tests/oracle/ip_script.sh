# What test_kernel_peer_tools.py runs in a kernel and under `xfrmi exec`. Each line is one step, run by a shell that
# keeps its variables and background jobs from line to line; what a step prints, complains of and returns is compared.

# The ground to stand on
ip link add d0 type veth peer name d0x
ip link add d1 type veth peer name d1x
ip link set d0 up; ip link set d0x up; ip link set d1 up; ip link set d1x up; ip link set lo up
ip link add br0 type bridge
K="aead rfc4106(gcm(aes)) 0x0123456789abcdef0123456789abcdef01234567 128"

# ip link add: forms
ip link add x0 type xfrm dev d0 if_id 42
ip link add x1 type xfrm if_id 0x2b dev d1
ip link add name x2 type xfrm if_id 44
ip link add link d0 name x3 type xfrm if_id 45
ip link add x4 mtu 1400 txqueuelen 7 type xfrm dev d0 if_id 46
ip link add x5 up type xfrm if_id 47
ip link add x6 multicast on type xfrm if_id 48
ip link add x7 group 77 type xfrm if_id 49
ip link add x8 alias 'a long name' type xfrm if_id 50
ip link add x9 index 900 type xfrm if_id 51
ip link add index 901 x10 type xfrm if_id 52
ip link add type xfrm if_id 53
ip link add name xx%d type xfrm if_id 54
ip link add x11 numtxqueues 1 numrxqueues 1 type xfrm if_id 55
ip link add x12 type xfrm external
ip link add x13 master br0 type xfrm if_id 56
ip link add x14 gso_max_size 1000 type xfrm if_id 57
ip link add x15 down type xfrm dev lo if_id 58
ip link add x16 address 02:00:00:00:00:01 type xfrm if_id 59
ip link add x17 broadcast ff:ff:ff:ff:ff:ff type xfrm if_id 60
ip link add x18 gso_max_segs 7 type xfrm if_id 61
ip link add x19 mtu 68 type xfrm if_id 62
ip link add x20 arp on type xfrm if_id 63
ip link add x21 promisc on type xfrm if_id 64
ip link add x22 allmulticast on type xfrm if_id 65
ip link add x23 dynamic on type xfrm if_id 66
ip link show
ip -d -j link show type xfrm
ip -br link show type xfrm

# ip link add: refusals
ip link add x0 type xfrm dev d0 if_id 99
ip link add y0 type xfrm dev d0 if_id 42
ip link add y0 type xfrm if_id 42
ip link add y0 type xfrm dev d0
ip link add y0 type xfrm if_id 0
ip link add y0 type xfrm external
ip link add y0 type xfrm external if_id 3
ip link add y0 type xfrm if_id 100 dev nosuch
ip link add y0 type xfrm if_id hello
ip link add y0 type xfrm if_id 0x1ffffffff
ip link add y0 type xfrm nonsense
ip link add y0 type xfrm help
ip link add y0 type xfrm
ip link add y0 mtu 67 type xfrm if_id 101
ip link add y0 mtu 65535 type xfrm if_id 101; ip link show y0; ip link del y0
ip link add y0 mtu 65536 type xfrm if_id 101
ip link add y0 mtu 70000 type xfrm if_id 101
ip link add y0 index 900 type xfrm if_id 102
ip link add y0 index 0 type xfrm if_id 102
ip link add y0 index -5 type xfrm if_id 102
ip link add a_name_too_long_for_this type xfrm if_id 103
ip link add "y 0" type xfrm if_id 103
ip link add y/0 type xfrm if_id 103
ip link add . type xfrm if_id 103
ip link add y0 netns nosuch type xfrm if_id 103
ip link add y0 master nosuch type xfrm if_id 103
ip link add d0 type xfrm if_id 104
ip link add y0 type nosuch
ip link show y0

# ip link show: forms
ip link show dev x0
ip link show x0
ip -d link show x0
ip -s link show x0
ip -s -s link show x0
ip -d -s link show x0
ip -j link show x0
ip -j -d link show x0
ip -j -s link show x0
ip -j -d -s link show x0
ip -j -s -s link show x0
ip -p -j link show x0
ip -o link show type xfrm
ip -o -d link show x2
ip link show up type xfrm
ip link show type xfrm up
ip link show type xfrm group 77
ip link show group 77
ip link show type xfrm master br0
ip link show type veth
ip link show type nosuch
ip link show type tun
ip -4 link show x0
ip -6 link show x0
ip -6 link show x5
ip -4 addr show x5
ip addr show type xfrm
ip -d addr show x0
ip -r link show x0
ip -h -s link show x0
ip -c=never link show x0
ip -N link show x0
ip link show nosuch
ip link show index 900
ip link ls x0
ip -a link show x0
ip -details -statistics link list dev x4
ip link show nomaster type xfrm
ip link show vrf nosuch

# ip link set: forms
ip link set x0 up
ip link set dev x1 up
ip link show x0; ip link show x1
ip link set x1 down; ip link show x1
ip link set x1 mtu 1300; ip link show x1
ip link set x1 mtu 67
ip link set x1 mtu 65536
ip link set x1 mtu 70000
ip link set x1 mtu 65535; ip link set x1 mtu 1300
ip link set x1 txqueuelen 17; ip link show x1
ip link set x1 txqlen 0; ip link show x1
ip link set x1 name renamed; ip link show renamed; ip link set renamed name x1
ip link set x0 name renamed; ip link show renamed; ip link set renamed name x0
ip link set x1 name d0
ip link set x1 name a_name_too_long_for_this
ip link set x1 alias 'hello there'; ip link show x1; ip -d link show x1; ip -j link show x1
ip link set x1 alias 'xfrmi if_id 0x1 link 2 home 3'; ip link show x1
ip link set x1 alias ''; ip link show x1
ip link set dev x1 alias other; ip -br link show x1
ip link property add dev x1 altname another; ip link show another; ip link show x1
ip link property add dev x1 altname another
ip link property add dev x1 altname one_more_that_is_longer_than_sixteen; ip -j link show x1
ip link set another mtu 1310; ip link show x1
ip link property del dev x1 altname another; ip link show another; ip link show x1
ip link property del dev x1 altname one_more_that_is_longer_than_sixteen
ip link property del dev x1 altname never
ip link property add dev x1 altname d0
ip link set x1 multicast on; ip link show x1
ip link set x1 multicast off; ip link show x1
ip link set x1 allmulticast on; ip link show x1; ip link set x1 allmulticast off
ip link set x1 promisc on; ip link show x1; ip link set x1 promisc off
ip link set x1 arp on; ip link show x1; ip link set x1 arp off; ip link show x1
ip link set x1 dynamic on; ip link show x1; ip link set x1 dynamic off
ip link set x1 trailers off; ip link show x1
ip link set x1 address 02:00:00:00:00:01
ip link set x1 address 192.0.2.1
ip link set x1 broadcast ff:ff:ff:ff:ff:ff
ip link set x1 brd 192.0.2.1
ip link set x1 peer 192.0.2.1
ip link set x1 group 5; ip link show x1; ip link set x1 group default; ip link show x1
ip link set x1 master br0
ip link set x1 nomaster
ip link set x1 master nosuch
ip link set x1 carrier off
ip link set x1 carrier on
ip link set x1 state dormant
ip link set x1 mode dormant; ip link show x1; ip link set x1 mode default
ip link set x1 protodown on
ip link set x1 protodown off
ip link set x1 gso_max_size 2000; ip -d link show x1
ip link set x1 gso_max_segs 3; ip -d link show x1
ip link set x1 gso_max_size 70000
ip link set x1 gso_max_size 65536; ip link set x1 gso_max_segs 65535; ip -d link show x1
ip link set x1 addrgenmode none; ip -d link show x1
ip link set x1 addrgenmode eui64; ip -d link show x1
ip link set x1 addrgenmode random
ip link set x1 vf 0 mac 02:00:00:00:00:01
ip link set x1 xdp off
ip link set x1 netns nosuch
ip link set x1 threaded on
ip link set x1 link d0
ip link set x1 link-netnsid 3
ip link set x1 min_mtu 3
ip link set x1 numtxqueues 3
ip link set nosuch up
ip link set nosuch type xfrm if_id 5
ip link set group 77 mtu 1390; ip link show x7
ip link set group 77 up; ip link show x7

# ip link set ... type xfrm: the key
ip link set x2 type xfrm if_id 144; ip -d link show x2
ip link set x2 type xfrm if_id 44; ip -d link show x2
ip link set x2 type xfrm if_id 42
ip link set x0 type xfrm dev d0 if_id 43; ip -d link show x0; ip link set x0 type xfrm dev d0 if_id 42
ip link set x0 type xfrm if_id 42; ip -d link show x0
ip link set x0 type xfrm dev d0 if_id 42; ip -d link show x0
ip link set x0 type xfrm dev d1 if_id 42; ip -d link show x0
ip link set x0 type xfrm dev d0 if_id 42; ip -d link show x0
ip link set x0 type xfrm
ip link set x0 type xfrm dev d0
ip link set x0 type xfrm if_id 0
ip link set x0 type xfrm external
ip link set x12 type xfrm if_id 3
ip link set x12 type xfrm external
ip link set x12 type xfrm
ip link set d0 type xfrm if_id 3
ip link set x0 type vti
ip link set x0 type veth
ip link set x0 type bridge
ip link set x0 mtu 1250 type xfrm dev d0 if_id 42; ip -d link show x0
ip link set x0 up mtu 1260 type xfrm dev d0 if_id 142; ip -d link show x0; ip link set x0 type xfrm dev d0 if_id 42
ip link set x0 alias both type xfrm dev d0 if_id 42; ip -d link show x0; ip link set x0 alias ''
ip link change x2 type xfrm if_id 145; ip -d link show x2
ip link change nosuch type xfrm if_id 146
ip link replace x2 type xfrm if_id 44; ip -d link show x2
ip link replace newone type xfrm if_id 147; ip -d link show newone; ip link del newone
ip link replace x2 type xfrm if_id 42
ip link replace d0 type xfrm if_id 147

# addresses and routes on it
ip addr add 10.9.0.1/24 dev x0; ip -4 addr show x0
ip addr add 10.9.1.1 peer 10.9.1.2 dev x0; ip -4 addr show x0
ip -6 addr add fd09::1/64 dev x0 nodad; ip -6 addr show x0 scope global
ip route add 10.77.0.0/16 dev x0; ip route show dev x0
ip route add 10.78.0.0/16 via 10.9.0.2; ip route show 10.78.0.0/16
ip -6 route add fd77::/32 dev x0; ip -6 route show fd77::/32
ip route get 10.77.1.1
ip neigh show dev x0
ip neigh add 10.9.0.77 lladdr 02:00:00:00:00:01 dev x0
ip route flush dev x0; ip addr flush dev x0
ip tunnel show x0
ip tuntap show
ip maddr show dev x4
ip netconf show dev x4
ip token show dev x4
ip rule show
ip -s link show dev d0 | head -1
ip link xstats type xfrm
ip link afstats dev x0
ip stats show dev x4 group link
ip link help xfrm
ip nexthop add id 7 dev x0; ip nexthop show; ip nexthop del id 7
ip mroute show
cat /sys/class/net/x0/mtu /sys/class/net/x0/flags /sys/class/net/x0/operstate /sys/class/net/x0/type
cat /proc/net/dev_mcast | grep x4

# other namespaces
ip netns add A; ip netns add B; ip netns list
ip link add n0 netns A type xfrm if_id 70
ip -n A -d link show n0
ip link add n1 type xfrm dev d0 if_id 71; ip link set n1 netns A; ip -n A -d link show n1; ip link show n1
ip -n A link set n1 up; ip -n A link show n1
ip -n A link set n1 name n1new; ip -n A -d link show n1new
ip -n A link set n1new mtu 1333; ip -n A link show n1new
ip -n A link set n1new type xfrm if_id 171; ip -n A -d link show n1new
ip -n A link set n1new type xfrm dev d0 if_id 171; ip -n A -d link show n1new
ip -n A link set n1new alias away; ip -n A link show n1new
ip -n A link show type xfrm
ip -n A -j -d link show type xfrm
ip link add n2 type xfrm dev d0 if_id 71
ip link add n2 type xfrm dev d0 if_id 171
ip link del n2
ip -n A link set n1new netns B; ip -n B -d link show n1new; ip -n A link show n1new
ip -n B link del n1new; ip -n B link show
ip netns exec A ip link add own type xfrm if_id 70; ip netns exec A ip -d link show own
ip -n A link add own2 type xfrm if_id 42; ip -n A -d link show own2
ip -n A link add own3 type xfrm if_id 72; ip -n A link set own3 netns B; ip -n B -d link show own3
ip link set x9 netns A name x9new; ip -n A -d link show x9new; ip -n A link set x9new netns $$; ip -n A link show x9new; ip link show x9new
ip link add n4 type xfrm if_id 73; ip link set n4 netns A; ip -n A link del n4; ip link add n4 type xfrm if_id 73; ip link del n4
ip link add n5 type xfrm if_id 74; ip -n A link add n5 type xfrm if_id 75; ip link set n5 netns A
ip link add n6 index 950 type xfrm if_id 76; ip -n A link add n7 index 950 type xfrm if_id 76; ip link set n6 netns A; ip -n A -o link show n6
ip -n A xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x7001 mode tunnel if_id 70 $K; ip -n A xfrm state; ip xfrm state
ip -n A xfrm state flush
ip link show type xfrm
ip netns del A; ip netns del B; ip netns list
ip link show type xfrm
ip link add n1 type xfrm dev d0 if_id 71; ip link del n1

# delete
ip link del x3
ip link del dev x3
ip link delete x4 type xfrm
ip link del x5 type veth
ip link show x5
ip link del x5
ip link del group 77
ip link show group 77
ip link del d1; ip -d link show x1
ip link set x1 type xfrm if_id 43; ip -d link show x1
ip link set x1 up; ip link show x1; ip link set x1 down
ip link del index 901
ip link del nosuch
ip link show type xfrm

# monitor
ip monitor link >mon & M=$!; sleep 0.5
ip link add m0 type xfrm dev d0 if_id 80
ip link set m0 up
ip link set m0 mtu 1400
ip link set m0 alias hello
ip link set m0 type xfrm dev d0 if_id 81
ip link set m0 name m1
ip link set m1 down
ip link del m1
sleep 0.5; kill $M; wait $M; cat mon
ip -d -j monitor link >mon & M=$!; sleep 0.5
ip link add m0 type xfrm if_id 80; ip link del m0
sleep 0.5; kill $M; wait $M; cat mon
ip -o monitor all >mon & M=$!; sleep 0.5
ip link add m0 type xfrm if_id 80; ip link set m0 up; ip addr add 10.5.0.1/24 dev m0; ip link del m0
sleep 0.5; kill $M; wait $M; grep -v fe80 mon | grep -v ff00 | grep -v NEIGH

# xfrm state
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel if_id 42 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel if_id 42 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1002 reqid 7 mode transport replay-window 32 flag noecn auth-trunc 'hmac(sha256)' 0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff 128 enc 'cbc(aes)' 0x00112233445566778899aabbccddeeff
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1003 mode beet sel src 10.0.0.1 dst 10.0.0.2 $K
ip xfrm state add src 2001:db8::1 dst 2001:db8::2 proto esp spi 0x1004 mode tunnel flag af-unspec replay-window 128 flag esn $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1005 mode tunnel encap espinudp 4500 4500 0.0.0.0 mark 0x5 mask 0xff output-mark 0x7 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1006 mode tunnel limit time-soft 100 limit time-hard 200 limit byte-soft 1000 limit byte-hard 2000 limit packet-soft 10 limit packet-hard 20 limit time-use-soft 5 limit time-use-hard 6 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1007 mode tunnel seq 0x99 replay-seq 0x5 replay-oseq 0x6 flag 'noecn decap-dscp nopmtudisc wildrecv icmp align4' extra-flag dont-encap-dscp coa 192.0.2.9 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1008 mode tunnel tfcpad 12 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1009 mode tunnel dir out $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto route2 mode ro
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto tcp spi 1 mode tunnel $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0 mode tunnel $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode nonsense $K
ip xfrm state add src 192.0.2.1 dst 2001:db8::1 proto esp spi 0x1010 mode tunnel $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel aead 'rfc4106(gcm(aes))' 0x01 128
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel aead 'nosuch(aes)' 0x0123456789abcdef0123456789abcdef01234567 128
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel aead 'rfc4106(gcm(aes))' 0x0123456789abcdef0123456789abcdef01234567 100
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel enc 'cbc(aes)' 0x00
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel enc 'cbc(aes)' 0x00112233445566778899aabbccddeeff auth-trunc 'hmac(md5)' 0x00 999
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode in_trigger $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel flag esn $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel flag esn replay-window 5000 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel offload crypto dev d0 dir out $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel offload dev nosuch dir out $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode transport sel src ::1 $K
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode transport encap espinudp 4500 4500 0.0.0.0 $K; ip xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010; ip xfrm state del src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010
ip xfrm state add nonsense
ip xfrm state list
ip xfrm state
ip -s xfrm state
ip -d xfrm state list
ip -o xfrm state
ip -j xfrm state
ip xfrm state list nokeys
ip xfrm state list src 2001:db8::1
ip xfrm state list dst 192.0.2.2 proto esp
ip xfrm state list spi 0x1002
ip xfrm state list mode beet
ip xfrm state list reqid 7
ip xfrm state list flag noecn
ip xfrm state list if_id 42
ip xfrm state count
ip -s xfrm state count
ip xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001
ip xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1005
ip xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1005 mark 0x5
ip xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x9999
ip xfrm state get dst 192.0.2.2
ip xfrm state update src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel if_id 42 replay-window 4 $K; ip xfrm state get src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001
ip xfrm state update src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x9999 mode tunnel $K
ip xfrm state allocspi src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel reqid 3 min 0x2000 max 0x2000
ip xfrm state allocspi src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel reqid 4 min 0x2000 max 0x2000
ip xfrm state allocspi src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel reqid 5 min 0x2100 max 0x2000
ip xfrm state allocspi src 192.0.2.1 dst 192.0.2.2 proto comp mode tunnel reqid 5 min 0x2100 max 0x1ffff
ip xfrm state del src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001
ip xfrm state del src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001
ip xfrm state del src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1005 mark 0x5
ip xfrm state deleteall mode beet; ip xfrm state count
ip xfrm state deleteall src 2001:db8::1; ip xfrm state count
ip xfrm state deleteall nonsense
ip xfrm state flush; ip xfrm state count; ip xfrm state
ip xfrm state flush
ip xfrm state help
ip xfrm state nonsense

# AH, IPComp, SELinux
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto ah spi 0x100a mode tunnel auth 'hmac(sha1)' 0x0011223344556677889900112233445566778899
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto comp spi 0x100b mode tunnel comp deflate
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1010 mode tunnel ctx 'a:b:c' $K; ip xfrm state list spi 0x1010
ip xfrm state flush proto ah; ip xfrm state flush proto comp; ip xfrm state flush; ip xfrm state count

# xfrm policy
ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
ip xfrm policy add src 10.1.0.0/16 dst 10.0.0.0/8 dir in if_id 42 priority 100 tmpl src 192.0.2.2 dst 192.0.2.1 proto esp spi 0x55 reqid 1 mode tunnel level use
ip xfrm policy add src 10.1.0.0/16 dst 10.0.0.0/8 dir fwd if_id 42 action block
ip xfrm policy add src 2001:db8::/32 dst ::/0 dir out if_id 42 proto tcp sport 80 dport 443 dev d0 flag localok tmpl src 2001:db8::1 dst 2001:db8::2 proto esp mode tunnel
ip xfrm policy add src 10.0.0.0/8 dst 10.2.0.0/16 proto icmp type 8 code 0 dir out if_id 43 mark 0x7 mask 0xff
ip xfrm policy add src 10.0.0.0/8 dst 10.3.0.0/16 proto gre key 1.2.3.4 dir out if_id 43 ptype sub
ip xfrm policy add src 10.0.0.0/8 dst 10.4.0.0/16 dir out if_id 43 index 0x101 limit time-soft 10 limit time-hard 20 limit byte-hard 1000
ip xfrm policy add src 10.0.0.0/8 dst 10.4.0.0/16 dir out if_id 44 index 0x100
ip xfrm policy add src 10.0.0.0/8 dst 10.5.0.0/16 dir out if_id 43 tmpl src 192.0.2.1 dst 192.0.2.2 proto comp mode tunnel tmpl proto esp mode transport
ip xfrm policy add dst 10.6.0.0/16 dir out
ip xfrm policy add dir out
ip xfrm policy add dst 10.7.0.0/16 dir nonsense
ip xfrm policy add dst 10.7.0.0/16
ip xfrm policy add src 10.0.0.0/8 dst 2001:db8::/32 dir out
ip xfrm policy add dst 10.7.0.0/40 dir out
ip xfrm policy add dst 10.7.0.0/16 dir out action nonsense
ip xfrm policy add dst 10.7.0.0/16 dir out tmpl proto nonsense
ip xfrm policy add dst 10.7.0.0/16 dir out dev nosuch
ip xfrm policy add dst 10.7.0.0/16 dir out flag icmp tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode ro
ip xfrm policy add dst 10.7.0.0/16 dir out tmpl proto esp mode tunnel
ip xfrm policy add dst 10.7.0.0/16 dir out tmpl proto esp tmpl proto esp tmpl proto esp tmpl proto esp tmpl proto esp tmpl proto esp tmpl proto esp
ip xfrm policy
ip -s xfrm policy
ip -d xfrm policy
ip -o xfrm policy
ip xfrm policy list dir out
ip xfrm policy list dir in
ip xfrm policy list src 10.0.0.0/8
ip xfrm policy list ptype sub
ip xfrm policy list ptype main dir fwd
ip xfrm policy list action block
ip xfrm policy list priority 100
ip xfrm policy list nosock
ip xfrm policy count
ip -s xfrm policy count
ip xfrm policy get src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42
ip xfrm policy get src 10.0.0.0/8 dst 10.1.0.0/16 dir out
ip xfrm policy get dir out index 0x101
ip xfrm policy get dir out index 0x101 if_id 43
ip xfrm policy get dir in index 0x101
ip xfrm policy update src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42 priority 5 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 2 mode tunnel; ip xfrm policy get src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42
ip xfrm policy update src 10.0.0.0/8 dst 10.99.0.0/16 dir out if_id 42
ip xfrm policy delete src 10.0.0.0/8 dst 10.99.0.0/16 dir out if_id 42
ip xfrm policy delete src 10.0.0.0/8 dst 10.99.0.0/16 dir out if_id 42
ip xfrm policy delete dir out index 0x101 if_id 43
ip xfrm policy deleteall dir in; ip xfrm policy count
ip xfrm policy set hthresh4 24 24 hthresh6 64 64; ip -s xfrm policy count
ip xfrm policy set hthresh4 33 24
ip xfrm policy set hthresh4 32 32 hthresh6 128 128
ip xfrm policy getdefault
ip xfrm policy setdefault in block fwd accept out block; ip xfrm policy getdefault
ip xfrm policy setdefault in accept fwd accept out accept; ip xfrm policy getdefault
ip xfrm policy setdefault
ip xfrm policy setdefault in nonsense
ip xfrm policy flush ptype sub; ip xfrm policy count
ip xfrm policy flush; ip xfrm policy; ip xfrm policy count
ip xfrm policy help
ip xfrm policy nonsense
ip xfrm help
ip xfrm nonsense

# xfrm monitor
ip xfrm monitor >mon & M=$!; ip -s xfrm monitor nokeys >mon2 & N=$!; ip xfrm monitor policy >mon3 & O=$!; sleep 0.7
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel if_id 42 replay-window 32 $K
ip xfrm state update src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel if_id 42 replay-window 64 $K
ip xfrm state allocspi src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel reqid 3 min 0x2000 max 0x2000 >/dev/null
ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
ip xfrm policy update src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42 priority 9 tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode tunnel
ip xfrm policy delete src 10.0.0.0/8 dst 10.1.0.0/16 dir out if_id 42
ip xfrm state del src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001
ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1001 mode tunnel limit time-hard 1 $K; sleep 2
ip xfrm policy flush; ip xfrm state flush
sleep 0.5; kill $M $N $O; wait $M; cat mon
cat mon2
cat mon3
ip xfrm monitor nonsense
ip xfrm monitor help

# -batch and friends
printf 'xfrm state count\nlink show x0\n' | ip -batch -
printf 'xfrm state nonsense\nxfrm state count\n' | ip -batch -
printf 'link set x0 mtu 1\nxfrm state count\n' | ip -force -batch -
printf 'link add b0 type xfrm if_id 90\nlink set b0 up\nlink del b0\n' | ip -b -
printf 'link add b0 type xfrm if_id 42 dev d0\nlink show x0\n' | ip -b -
ip -batch /nosuch

# /proc
cat /proc/net/xfrm_stat
head -3 /proc/self/net/xfrm_stat
