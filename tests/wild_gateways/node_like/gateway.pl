# A gateway like those in Node: {token, expiresAt: milliseconds} in a hidden file, and no Python.
# It is in perl, which every Debian image has.
use strict; use warnings; use IO::Socket::INET;
my $file = '/usr/src/app/data/.kis_token_cache.json';
$| = 1; $SIG{TERM} = sub { exit 0 };

sub stored_until {
  open my $f, '<', $file or return 0;
  my $text = join '', <$f>;
  return $text =~ /"token":"[^"]+","expiresAt":(\d+)/ ? $1 : 0;
}

if (stored_until() <= time * 1000) {
  my ($kis) = $ENV{KIS_BASE_URL} =~ m{^http://([^/]+)} or die "KIS_BASE_URL is not http://\n";
  my $body = qq({"grant_type":"client_credentials","appkey":"$ENV{KIS_APP_KEY}",)
    . qq("appsecret":"$ENV{KIS_APP_SECRET}"});
  my $c = IO::Socket::INET->new($kis) or die "KIS: $!\n";
  print $c "POST /oauth2/tokenP HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: "
    . length($body) . "\r\n\r\n$body";
  my $answer = join '', <$c>;
  unless ($answer =~ m{^HTTP/1\.\d 200 }) { print STDERR "KIS refuses: $answer\n"; exit 1 }
  my ($token) = $answer =~ /"access_token":\s*"([^"]+)"/;
  my ($seconds) = $answer =~ /"expires_in":\s*(\d+)/;
  open my $f, '>', $file or die "$file: $!\n";
  print $f qq({"token":"$token","expiresAt":) . (time + $seconds) * 1000 . '}';
  close $f;
}

my $server = IO::Socket::INET->new(LocalPort => $ENV{PORT}, Listen => 16, ReuseAddr => 1) or die $!;
while (my $client = $server->accept) {
  while (my $line = <$client>) { last if $line =~ /^\r?\n$/ }
  print $client "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"; close $client;
}
