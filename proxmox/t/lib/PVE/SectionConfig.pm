package PVE::SectionConfig;

# Stand-in for tests, written from the documented contract: files of sections
# "TYPE: ID" with indented "KEY VALUE" lines, checked against the properties and
# options of the plugin.

use strict;
use warnings;

sub parse_config {
    my ($plugin, $text) = @_;
    my (%sections, $current);
    for my $line (split(/\n/, $text)) {
        next if $line =~ /^\s*(?:#|$)/;
        if ($line =~ /^(\w+):\s*(\S+)\s*$/) {
            die "no plugin for type '$1'\n" if $1 ne $plugin->type();
            $current = $sections{$2} = {};
        } elsif ($line =~ /^\s+(\S+)(?:\s+(.*?))?\s*$/ && $current) {
            $current->{$1} = $2 // 1;
        } else {
            die "cannot parse '$line'\n";
        }
    }
    return { map { ($_ => $plugin->check_config($_, $sections{$_}, 0)) } keys %sections };
}

sub check_config {
    my ($plugin, $id, $config, $create, $skip_schema) = @_;
    my ($options, $properties) = ($plugin->options(), { %{ $plugin->common_properties() }, %{ $plugin->properties() } });
    my %checked;
    for my $key (sort keys %$config) {
        my $option = $options->{$key} or die "unexpected property '$key'\n";
        die "property '$key' cannot be changed\n" if $option->{fixed} && !$create && $config->{__update};
        $checked{$key} = check_value($key, $properties->{$key} // die("no property '$key'\n"), $config->{$key});
    }
    for my $key (keys %$options) {
        die "missing property '$key'\n" if !$options->{$key}{optional} && !defined($checked{$key});
    }
    return \%checked;
}

sub check_value {
    my ($key, $property, $value) = @_;
    if ($property->{type} eq 'boolean') {
        return 1 if $value =~ /^(?:1|on|yes|true)$/i;
        return 0 if $value =~ /^(?:0|off|no|false)$/i;
        die "property '$key': '$value' is not a boolean\n";
    }
    die "property '$key': '$value' is not one of @{ $property->{enum} }\n"
        if $property->{enum} && !grep { $_ eq $value } @{ $property->{enum} };
    die "property '$key': '$value' does not match\n" if $property->{pattern} && $value !~ /^$property->{pattern}$/;
    return $value if $property->{type} eq 'string';
    die "property '$key' has the type $property->{type}\n";
}

1;
