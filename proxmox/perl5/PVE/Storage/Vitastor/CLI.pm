package PVE::Storage::Vitastor::CLI;

# Runs the programs of Vitastor for one storage of storage.cfg.
#
# Guarantee: a program that fails is an exception with what the program said,
# and the arguments of a program never pass through a shell.
#
# Safe under taint mode (pvedaemon and pveproxy use it).

use strict;
use warnings;

use PVE::Tools;

# JSON::XS is many times faster, JSON::PP belongs to Perl.
my $json_class = eval { require JSON::XS; 1 } ? 'JSON::XS' : do { require JSON::PP; 'JSON::PP' };

# Where the programs are; tests put others there.
our %PROGRAM = (map { ($_ => "/usr/bin/vitastor-$_") } qw(cli nbd ublk vduse));

# Programs of the system.
$PROGRAM{$_} = "/usr/bin/$_" for qw(systemctl systemd-run qemu-img);
$PROGRAM{modprobe} = '/usr/sbin/modprobe';

# Seconds that questions may take. What changes data has no limit: it waits for
# the cluster, and is never left half-way without need.
our $ASK_SECONDS = 20;

# new: of the configuration of a storage.
sub new {
    my ($class, $scfg) = @_;
    return bless { options => [client_options($scfg)] }, $class;
}

# client_options tell any of our programs where the cluster is.
sub client_options {
    my ($scfg) = @_;
    my @options;
    for my $name (qw(config_path etcd_address etcd_prefix)) {
        my $value = $scfg->{"vitastor_$name"};
        push @options, "--$name", $value if defined($value) && $value ne '';
    }
    return @options;
}

# untaint: where a value comes from is checked by those who use it.
sub untaint {
    my ($value) = @_;
    return undef if !defined($value);
    my ($clean) = $value =~ /\A(.*)\z/s;
    return $clean;
}

# spawn runs a program and returns its lines; options as of run_command.
sub spawn {
    my ($command, %options) = @_;
    my @command = map { untaint($_) } @$command;
    my (@out, @err);
    die "$command[0] is not installed: apt install vitastor-client\n"
        if $command[0] =~ m!/vitastor-\w+$! && !-x $command[0];
    eval {
        PVE::Tools::run_command(
            \@command,
            outfunc => sub { push @out, $_[0] },
            errfunc => sub { push @err, $_[0] },
            %options,
        );
    };
    if (my $failed = $@) {
        my ($name) = $command[0] =~ m!([^/]+)$!;
        die "$name: " . reason($failed, \@out, \@err) =~ s/^\Q$name\E: //r . "\n";
    }
    return @out;
}

# reason is the best sentence that a failed program has left.
sub reason {
    my ($failed, $out, $err) = @_;
    my @said = grep { /\S/ } map { s/\e\[\w*|\r//gr } @$err;
    for my $line (@$out) {
        my $result = eval { decode($line) };
        push @said, $result->{error_text} if ref($result) eq 'HASH' && $result->{error_text};
    }
    chomp $failed;
    return @said ? join('; ', @said) : $failed;
}

# decode reads JSON of programs; bytes of names stay as they are.
sub decode { return $json_class->new->utf8(0)->allow_nonref->decode($_[0]) }

# from_utf8 and to_utf8 are for texts of people.
sub from_utf8 { return $json_class->new->utf8(1)->decode($_[0]) }
sub to_utf8 { return $json_class->new->utf8(1)->canonical->encode($_[0]) }

# run executes a command of vitastor-cli that changes something.
sub run {
    my ($self, @args) = @_;
    return spawn([$PROGRAM{cli}, @{ $self->{options} }, '--progress', '0', @args]);
}

# transfer copies data (vitastor-cli dd) to or from a descriptor.
sub transfer {
    my ($self, $redirection, @args) = @_;
    spawn([$PROGRAM{cli}, @{ $self->{options} }, '--progress', '0', 'dd', 'status=none', @args], @$redirection);
    return;
}

# ask executes a command that only looks, and returns what its JSON says.
sub ask {
    my ($self, @args) = @_;
    my @out = spawn([$PROGRAM{cli}, @{ $self->{options} }, '--json', @args], timeout => $ASK_SECONDS);
    my $value = eval { decode(join("\n", @out)) };
    die "vitastor-cli $args[0]: its answer is not JSON: $@" if !defined($value);
    return $value;
}

# pattern matches exactly this name.
sub pattern {
    my ($name) = @_;
    return $name =~ s/([\\*?])/\\$1/gr;
}

# images lists what matches the patterns.
sub images {
    my ($self, @patterns) = @_;
    return @{ $self->ask('ls', @patterns) };
}

# find returns images by their exact names, as a hash.
sub find {
    my ($self, @names) = @_;
    return map { ($_->{name} => $_) } $self->images(map { pattern($_) } @names);
}

# layers are an image (if it exists) and its snapshots.
sub layers {
    my ($self, $name) = @_;
    my $pattern = pattern($name);
    return $self->images($pattern, "$pattern\@*");
}

# image must exist.
sub image {
    my ($self, $name) = @_;
    my %found = $self->find($name);
    return $found{$name} // die "image $name does not exist\n";
}

# exists tells whether an error is about a name that is taken.
sub exists { return $_[0] =~ /already exists/ }

1;
