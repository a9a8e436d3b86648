package PVE::Storage::Vitastor::Identity;

# An identity of a storage that does not depend on how it is configured: the
# number that etcd gave itself when it was made, the prefix of our keys, the
# number of the pool and the prefix of names.

use strict;
use warnings;

use HTTP::Tiny;

use PVE::Storage::Vitastor::CLI;

our $SECONDS = 5;

# of returns it; it needs etcd.
sub of {
    my ($scfg, $pool, $prefix) = @_;
    my $config = configuration($scfg->{vitastor_config_path} // '/etc/vitastor/vitastor.conf');
    my $root = $scfg->{vitastor_etcd_prefix} // $config->{etcd_prefix} // '/vitastor';
    $root =~ s!^/*(.*?)/*$!/$1!;
    my @problems;
    for my $url (urls($scfg->{vitastor_etcd_address} // $config->{etcd_address})) {
        my $id = eval { cluster_id($url) };
        return "etcd:$id$root:pool:$pool:$prefix" if $id;
        push @problems, "$url: $@";
    }
    die "etcd does not tell its identity: " . (join('', @problems) || "nobody says where it is\n");
}

sub configuration {
    my ($file) = @_;
    open(my $in, '<', $file) or return {};
    my $text = do { local $/; <$in> };
    return eval { PVE::Storage::Vitastor::CLI::from_utf8($text) } // die "$file is not JSON: $@";
}

# urls reads a list of addresses: HOST:PORT, with or without http:// and a path.
sub urls {
    my ($addresses) = @_;
    my @all = ref($addresses) ? @$addresses : split(/[\s,]+/, $addresses // '');
    return map { my ($scheme, $host, $path) = m!^(https?://)?([^/]+)(/.*)?$!; ($scheme // 'http://') . $host . ($path // '/v3') }
        grep { /\S/ } @all;
}

sub cluster_id {
    my ($url) = @_;
    my $response = HTTP::Tiny->new(timeout => $SECONDS)->post("$url/maintenance/status", { content => '{}' });
    die "$response->{status} $response->{reason}\n" if !$response->{success};
    my ($id) = PVE::Storage::Vitastor::CLI::from_utf8($response->{content})->{header}{cluster_id} =~ /^(\d+)$/;
    return sprintf('%x', $id);
}

1;
