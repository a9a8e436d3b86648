#!/usr/bin/perl -T
# Block devices of this node, made by programs that pretend.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir clean fails program killed_at);

my $volume = 'vm-100-disk-0';
my %base = (vitastor_pool => 'p', vitastor_config_path => '/a.conf');
my $link = "$dir/dev/st/pve_$volume";

# A program like vitastor-ublk: mapped images are files, NUMBER contains IMAGE and
# the configuration.
sub pretend {
    my ($name, $device) = @_;
    mkdir("$dir/$name");
    program($name, <<"EOS");
cd $dir/$name || exit 1
echo "\$*" >> calls
case "\$1" in
ls) echo "{"; sep=; for f in [0-9]*; do [ -f "\$f" ] || continue; echo "\$sep\\"$device\$f\\": {\$(cat \$f)}"; sep=,; done; echo "}" ;;
unmap|netlink-unmap) [ -f busy ] && { echo "vitastor-$name: \$2 is in use" >&2; exit 1; }; rm "\${2#$device}" ;;
map|netlink-map) [ -f broken ] && { echo "vitastor-$name: image \$3 does not exist" >&2; exit 1; }
  n=\$(grep -l dead [0-9]* 2>/dev/null) || { n=0; while [ -f \$n ]; do n=\$((n+1)); done; }
  how=$name; [ "\$1" = netlink-map ] && how=netlink
  image=\$3; while [ "\$1" != --config_path ]; do shift; done
  echo "\\"image\\": \\"\$image\\", \\"config_path\\": \\"\$2\\", \\"interface\\": \\"\$how\\"" > \$n
  [ -f kill ] && kill -9 \$PPID
  echo $device\$n ;;
esac
EOS
    return;
}

sub calls {
    my ($name) = @_;
    open(my $in, '<', "$dir/$name/calls") or return '';
    my $all = join('', grep { !/^ls/ } <$in>);
    unlink("$dir/$name/calls");
    return $all;
}

sub flag {
    my ($file, $on) = @_;
    return unlink("$dir/$file") if !$on;
    open(my $out, '>', "$dir/$file") or die $!;
    return 1;
}

program('cli', 'echo "[]"');

subtest 'no kernel module' => sub {
    like(fails(sub { $plugin->map_volume('st', {%base}, $volume) }),
        qr/can make none: it needs one of the kernel modules vduse, ublk_drv, nbd/);
    is(fails(sub { $plugin->unmap_volume('st', {%base}, $volume) }), 'nothing went wrong');
};

pretend('ublk', '/dev/ublkb');
pretend('nbd', '/dev/nbd');
program('modprobe', 'case "$*" in *nbd) exit 0;; esac; exit 1');

subtest 'attached once, detached once' => sub {
    my $scfg = { %base, vitastor_attach => 'ublk' };
    for (1, 2) {
        $plugin->activate_volume('st', $scfg, $volume, undef, {}, { 'guest-is-windows' => 1 });
        is(readlink($link), '/dev/ublkb0');
    }
    is($plugin->map_volume('st', $scfg, $volume, undef, {}), $link);
    is(calls('ublk'), "map --image pve/$volume --config_path /a.conf\n");
    $plugin->activate_volume('st', $scfg, $volume, 'snap');
    is(readlink("$link\@snap"), '/dev/ublkb1');
    for (1, 2) {
        $plugin->deactivate_volume('st', $scfg, $volume);
        $plugin->deactivate_volume('st', $scfg, $volume, 'snap');
    }
    is(calls('ublk'), "map --image pve/$volume\@snap --config_path /a.conf\nunmap /dev/ublkb0\nunmap /dev/ublkb1\n");
    ok(!-l $link);
};

subtest 'killed when the device was there but not the link' => sub {
    my $scfg = { %base, vitastor_attach => 'ublk' };
    flag('ublk/kill', 1);
    ok(killed_at('never', sub { $plugin->activate_volume('st', $scfg, $volume) }));
    flag('ublk/kill', 0);
    ok(-l $link && !-e $link, 'a link to nothing');
    $plugin->activate_volume('st', $scfg, $volume);
    is(readlink($link), '/dev/ublkb0', 'the same device');
    flag('ublk/kill', 1);
    ok(killed_at('never', sub { $plugin->activate_volume('st', $scfg, $volume, 's') }));
    flag('ublk/kill', 0);
    $plugin->deactivate_volume('st', $scfg, $_->[0], $_->[1]) for [$volume], [$volume, 's'];
    is(join(' ', glob("$dir/ublk/[0-9]*")), '', 'no device is left');
    calls('ublk');
};

subtest 'of two clusters with the same names' => sub {
    $plugin->activate_volume('st', { %base, vitastor_attach => 'ublk' }, $volume);
    my $other = { %base, vitastor_attach => 'ublk', vitastor_config_path => '/b.conf' };
    $plugin->activate_volume('other', $other, $volume);
    is(readlink("$dir/dev/other/pve_$volume"), '/dev/ublkb1');
    $plugin->deactivate_volume('other', $other, $volume);
    is(readlink($link), '/dev/ublkb0');
    is(join(' ', glob("$dir/ublk/[0-9]*")), "$dir/ublk/0");
    $plugin->deactivate_volume('st', { %base, vitastor_attach => 'ublk' }, $volume);
};

subtest 'the best method of the node' => sub {
    is($plugin->map_volume('st', {%base}, $volume), $link);
    is(readlink($link), '/dev/nbd0', 'ublk has no module here');
    $plugin->unmap_volume('st', {%base}, $volume);
    ok(!-l $link);
};

subtest 'a server that has died' => sub {
    my $scfg = { %base, vitastor_attach => 'ublk' };
    calls('ublk');
    $plugin->activate_volume('st', $scfg, $volume);
    open(my $out, '>', "$dir/ublk/0") or die $!;
    print $out qq("last_image": "pve/$volume", "dead": true\n);
    close($out);
    $plugin->activate_volume('st', $scfg, $volume);
    is(readlink($link), '/dev/ublkb0');
    like(calls('ublk'), qr!\nmap --image pve/$volume --config_path /a.conf\n$!);
    $plugin->deactivate_volume('st', $scfg, $volume);
};

subtest 'names of VDUSE' => sub {
    mkdir("$dir/vduse");
    program('vduse', <<"EOS");
case "\$1" in
ls) echo "{"; sep=; for f in $dir/vduse/*; do [ -f "\$f" ] && echo "\$sep\\"/dev/vd\${f##*-}\\": {\\"image\\": \\"pve/$volume\\", \\"name\\": \\"\${f##*/}\\"}"; sep=,; done; echo "}" ;;
map) echo "\$5" >> $dir/vduse-names; touch $dir/vduse/\$5; echo /dev/vd\${5##*-} ;;
unmap) rm $dir/vduse/pve-\${2#/dev/vd} ;;
esac
EOS
    # The same name of an image in two clusters is two devices.
    my @stores = map { ["s$_", { %base, vitastor_attach => 'vduse', vitastor_config_path => "/$_.conf" }] } 1, 2;
    for my $store (@stores, @stores) {
        is($plugin->map_volume(@$store, $volume), "$dir/dev/$store->[0]/pve_$volume");
    }
    my %names = map { ($_ => 1) } split(/\n/, PVE::Tools::file_get_contents("$dir/vduse-names"));
    is(scalar(grep { /^pve-[0-9a-f]{12}$/ } keys %names), 2);
    isnt(readlink("$dir/dev/s1/pve_$volume"), readlink("$dir/dev/s2/pve_$volume"));
    $plugin->unmap_volume(@$_, $volume) for @stores;
    is(join(' ', glob("$dir/vduse/*")), '');
    program('vduse', 'exit 1');
};

subtest 'with systemd' => sub {
    mkdir("$dir/systemd");
    local $PVE::Storage::Vitastor::Attach::SYSTEMD_DIR = "$dir/systemd";
    program('systemd-run', <<"EOS");
echo "\$@" > $dir/systemd/options
while [ "\${1#--}" != "\$1" ]; do
  case "\$1" in --scope) scope=1;; *append:*) log=\${1##*append:};; --unit=*) touch "$dir/systemd/\${1#--unit=}";; esac; shift
done
[ "\$scope" ] && exec "\$@"
"\$@" >/dev/null 2>>\$log
EOS
    program('systemctl', qq([ -f "$dir/systemd/\$2" ] || { echo "Unit \$2 not loaded." >&2; exit 5; }; rm "$dir/systemd/\$2"));
    unlink($PVE::Storage::Vitastor::CLI::PROGRAM{vduse});

    $plugin->map_volume('st', {%base}, $volume);
    like(PVE::Tools::file_get_contents("$dir/systemd/options"), qr/ --scope .*netlink-map/, 'not a part of the service that makes it');
    is(readlink($link), '/dev/nbd0');
    calls('nbd');
    $plugin->unmap_volume('st', {%base}, $volume);
    is(calls('nbd'), "netlink-unmap /dev/nbd0\n");

    my $scfg = { %base, vitastor_attach => 'ublk' };
    $plugin->map_volume('st', $scfg, $volume);
    like(PVE::Tools::file_get_contents("$dir/systemd/options"), qr/ --property=Type=forking .*Restart=on-failure .*vitastor-ublk map --image/);
    is(readlink($link), '/dev/ublkb0');
    is(scalar(my @units = glob("$dir/systemd/vitastor-pve-ublk-*.service")), 1);
    $plugin->unmap_volume('st', $scfg, $volume);
    is(join(' ', glob("$dir/systemd/*.service")), '', 'the unit goes with the device');
    flag('ublk/broken', 1);
    is(fails(sub { $plugin->map_volume('st', $scfg, $volume) }), "vitastor-ublk: image pve/$volume does not exist\n");
    flag('ublk/broken', 0);
    is(join(' ', glob("$dir/systemd/*.service")), '', 'no unit that starts again and again');
    $plugin->unmap_volume('st', $scfg, $volume);
};

subtest 'errors' => sub {
    my $scfg = { %base, vitastor_nbd => 1 };
    flag('nbd/broken', 1);
    is(fails(sub { $plugin->activate_volume('st', $scfg, $volume) }), "vitastor-nbd: image pve/$volume does not exist\n");
    flag('nbd/broken', 0);
    $plugin->activate_volume('st', $scfg, $volume);
    flag('nbd/busy', 1);
    like(fails(sub { $plugin->deactivate_volume('st', $scfg, $volume) }), qr!/dev/nbd0 is in use!);
    is(readlink($link), '/dev/nbd0', 'it is still there');
    program('cli', 'echo \'[{"name": "pve/vm-100-disk-0", "inode_id": 1}]\'');
    like(fails(sub { $plugin->free_image('st', $scfg, $volume) }), qr!/dev/nbd0 is in use!);
    flag('nbd/busy', 0);
    $plugin->deactivate_volume('st', $scfg, $volume);
    is(join(' ', glob("$dir/nbd/[0-9]*")), '');
};

done_testing();
