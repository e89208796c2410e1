"""Spellings of URLs, and addresses, that a fetch must tell apart.

`§` is the port of the stand-ins.
"""

from __future__ import annotations

from frontend.images.addresses import Reason

# URLs that are fetched, and the stand-in that answers each.
SERVED = {
    "http://public.test:§/": "127.0.0.2",
    "http://PUBLIC.Test:§/": "127.0.0.2",
    "http://public.test.:§/": "127.0.0.2",
    "http://ｐｕｂｌｉｃ.test:§/": "127.0.0.2",  # noqa: RUF001
    "http://public\u3002test:§/": "127.0.0.2",
    "http://pub\u00adlic.test:§/": "127.0.0.2",
    "http://%70ublic.test:§/": "127.0.0.2",
    "http://private.test@public.test:§/": "127.0.0.2",
    "http://127.0.0.1:§@public.test:§/": "127.0.0.2",
    "http://user:127.0.0.1@public.test:§/": "127.0.0.2",
    "http://a@b@public.test:§/": "127.0.0.2",
    "http://public.test:§/#@127.0.0.1/": "127.0.0.2",
    "http://public.test:§/@127.0.0.1": "127.0.0.2",
    "http://public.test:§?@127.0.0.1": "127.0.0.2",
    "http://public.test:§/?url=http://127.0.0.1/": "127.0.0.2",
    "HTTP://public.test:§": "127.0.0.2",
    "  http://public.test:§/  ": "127.0.0.2",
    "http://other.test:§/": "127.0.0.3",
    "http://127.0.0.2:§/": "127.0.0.2",
    "http://127.0.0.2.:§/": "127.0.0.2",
    "http://127.2:§/": "127.0.0.2",
    "http://127.0.2:§/": "127.0.0.2",
    "http://2130706434:§/": "127.0.0.2",
    "http://0x7f000002:§/": "127.0.0.2",
    "http://0X7F.2:§/": "127.0.0.2",
    "http://0177.0.0.2:§/": "127.0.0.2",
    "http://017700000002:§/": "127.0.0.2",
    "http://127.0.0.%32:§/": "127.0.0.2",
    "http://①②⑦.⓪.⓪.③:§/": "127.0.0.3",
}

_FORBIDDEN_WORDS = """
http://private.test:§/ http://PRIVATE.test:§/ http://private.test.:§/ http://%70rivate.test:§/
http://public.test@private.test:§/ http://public.test:§@private.test:§/ http://a@b@private.test:§/
http://private.test:§/#@public.test/ http://private.test:§?@public.test http://private\u3002test:§/
http://priv\u00adate.test:§/ http://\uff50rivate.test:§/ http://private.test:§/public.test
http://127.0.0.1:§/ http://127.0.0.1.:§/ http://127.0.0.4:§/ http://127.1:§/ http://127.0.1:§/
http://2130706433:§/ http://2130706433.:§/ http://0x7f000001:§/ http://0X7F000001:§/ http://0x7F.1:§/
http://0x7f.0x0.0x0.0x1:§/ http://0x7f.0.0.1:§/ http://0177.0.0.1:§/ http://0177.1:§/ http://017700000001:§/
http://00000177.0.0.1:§/ http://127.0.0x0.1:§/ http://127.0.0.0x1:§/ http://127.0.0.01:§/
http://%31%32%37.0.0.1:§/ http://127%2E0%2E0%2E1:§/ http://%30x7f.1:§/ http://127.0.0.1%2e:§/
http://①②⑦.⓪.⓪.①:§/ http://\uff11\uff12\uff17.0.0.1:§/ http://127\u30020\u30020\u30021:§/
http://127\uff0e0\uff0e0\uff0e1:§/ http://127\uff610\uff610\uff611:§/ http://1\u00ad27.0.0.1:§/
http://user@127.0.0.1:§/ http://user:pass@127.0.0.1:§/ http://public.test@127.0.0.1:§/
http://public.test:80@127.0.0.1:§/ http://@127.0.0.1:§/ http://public.test%40127.0.0.1:§/
http://[::1]:§/ http://[0:0:0:0:0:0:0:1]:§/ http://[0000::0001]:§/ http://[::0.0.0.1]:§/ http://[::]:§/
http://[::ffff:127.0.0.1]:§/ http://[::ffff:7f00:1]:§/ http://[::FFFF:127.0.0.2]:§/ http://[::127.0.0.1]:§/
http://[::127.0.0.2]:§/ http://[::ffff:0:127.0.0.1]:§/ http://[64:ff9b::127.0.0.1]:§/
http://[64:ff9b:1::127.0.0.1]:§/ http://[2002:7f00:1::]:§/ http://[2001:0:7f00:1::1]:§/
http://[fe80::1%25lo]:§/ http://[fe80::1%lo]:§/ http://[::1%25lo]:§/ http://[fe80::1]:§/ http://[ff02::1]:§/
http://[127.0.0.1]:§/ http://[0x7f.1]:§/ http://[private.test]:§/ http://[::1:§/ http://::1:§/
http://[::1].:§/ http://[::1]public.test:§/ http://public.test[::1]:§/ http://[[::1]]:§/
http://0:§/ http://0.0.0.0:§/ http://0x0:§/ http://00:§/ http://0x:§/ http://127.0.0.0:§/
http://127.255.255.255:§/ http://127.65535:§/ http://4294967295:§/ http://255.255.255.255:§/
http://169.254.169.254:§/ http://2852039166:§/ http://0xa9fea9fe:§/ http://0251.0376.0251.0376:§/
http://169.254.43518:§/ http://169.16689662:§/ http://[::ffff:a9fe:a9fe]:§/ http://[fd00:ec2::254]:§/
http://168.63.129.16:§/ http://0xa83f8110:§/ http://100.100.100.200:§/ http://1684301000:§/
http://4294967296:§/ http://256.0.0.1:§/ http://127.0.0.1.1:§/ http://0x1ffffffff:§/ http://08.0.0.1:§/
http://127.0.0.1..:§/ http://.127.0.0.1:§/ http://127..1:§/ http://private..test:§/ http://.:§/
http://127.0.0.1\\@public.test:§/ http://public.test\\@127.0.0.1:§/ http://public.test:§\\@127.0.0.1/
http:\\\\127.0.0.1:§\\ http:/\\127.0.0.1:§/ http://127.0.0.1:§\\public.test/ http:///127.0.0.1:§/
http:127.0.0.1:§ http:/127.0.0.1:§/ ////127.0.0.1:§/ //127.0.0.1:§/ 127.0.0.1:§ http://:§/
http://127.0.0.1%09:§/ http://127.0.0.1%00:§/ http://127.0.0.1%20:§/ http://127.0.0.1%2f:§/
http://127.0.0.1%23public.test:§/ http://127.0.0.1%3a80:§/ http://%2531%2532%2537.0.0.1:§/
http://public.test:22/ http://public.test:0/ http://public.test:65536/ http://public.test:99999/
http://public.test:+80/ http://public.test:0x50/ http://public.test:\u0668\u0660/ http://public.test:§:§/
http://127.0.0.2:22/ http://127.0.0.2:/ http://public.test/ https://public.test/
file:///etc/passwd file://public.test:§/x ftp://public.test:§/ gopher://public.test:§/_ ws://public.test:§/
dict://public.test:§/ ldap://public.test:§/ data:,x javascript:1 about:blank jar:http://public.test:§/!/
unix:/run/x http+unix://%2frun%2fx/ netdoc:///etc/passwd view-source:http://public.test:§/ httpx://a:§/
"""

_FORBIDDEN_WITH_BLANKS = [
    "http://127.0.\t0.1:§/",
    "http://127.0.0.1\n:§/",
    "ht\ntp://127.0.0.1:§/",
    "http://public.test\r\nHost: private.test:§/",
    "http://public.test:§/\r\nX-Injected: 1",
    "http://public.test:§/\x00",
    "http://pub lic.test:§/",
    "http://127.0.0.1 @public test:§/",
    "\x01http://127.0.0.1:§/",
    "",
    " ",
]

# Addresses that a name may resolve to; each is dialled through a name of its own.
_DENIED_WORDS = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.254 127.0.0.1 127.0.0.4 127.8.9.1
168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.254 192.0.0.1 192.0.0.192
192.0.2.1 192.88.99.1 192.168.0.1 192.168.255.254 198.18.0.1 198.19.255.254 198.51.100.1 203.0.113.1
224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255
:: ::1 ::2 ::ffff:127.0.0.1 ::ffff:127.0.0.2 ::ffff:8.8.8.8 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 ::127.0.0.1
::8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b::a9fe:a9fe 64:ff9b:1::7f00:1 64:ff9b:1::808:808 100::1
2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::1
2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254 fe80::1 fe80::1%lo fec0::1 ff02::1 ff0e::1
2a00::5efe:7f00:1 2a00::200:5efe:808:808 not-an-address 127.1 0x7f.1
"""

FORBIDDEN = [*_FORBIDDEN_WORDS.split(), *_FORBIDDEN_WITH_BLANKS]
DENIED_ADDRESSES = _DENIED_WORDS.split()

# How each host is read.
HOSTS = {
    # IPv4, as inet_aton and browsers read it
    "127.0.0.1": "127.0.0.1",
    "2130706433": "127.0.0.1",
    "0x7f000001": "127.0.0.1",
    "0X7F000001": "127.0.0.1",
    "017700000001": "127.0.0.1",
    "0177.0.0.1": "127.0.0.1",
    "0177.0.0.01": "127.0.0.1",
    "0x7f.0x0.0x0.0x1": "127.0.0.1",
    "0x7f.1": "127.0.0.1",
    "127.1": "127.0.0.1",
    "127.0.1": "127.0.0.1",
    "127.65535": "127.0.255.255",
    "0": "0.0.0.0",
    "0x": "0.0.0.0",
    "127.0.0.1.": "127.0.0.1",
    "127.0.0.0x1": "127.0.0.1",
    "0300.0250.1.1": "192.168.1.1",
    "3232235777": "192.168.1.1",
    "2852039166": "169.254.169.254",
    "0xA9FEA9FE": "169.254.169.254",
    "169.254.43518": "169.254.169.254",
    # escapes and Unicode
    "%31%32%37.0.0.1": "127.0.0.1",
    "127%2e0%2e0%2e1": "127.0.0.1",
    "１２７.0.0.1": "127.0.0.1",  # noqa: RUF001
    "①②⑦.⓪.⓪.①": "127.0.0.1",
    "127\u30020\u30020\u30021": "127.0.0.1",  # ideographic full stops
    "127\uff0e0\uff0e0\uff0e1": "127.0.0.1",  # full-width full stops
    "%EF%BC%9127.0.0.1": "127.0.0.1",
    "ｌｏｃａｌｈｏｓｔ": "localhost",  # noqa: RUF001
    "loc\u00adalhost": "localhost",
    "ⓔⓧⓐⓜⓟⓛⓔ.com": "example.com",
    "faß.de": "xn--fa-hia.de",
    "xn--fa-hia.de": "xn--fa-hia.de",
    "bücher.example": "xn--bcher-kva.example",
    # names
    "EXAMPLE.com": "example.com",
    "example.com.": "example.com",
    "my_minio": "my_minio",
    "1.example": "1.example",
    # IPv6
    "[::1]": "::1",
    "[0:0:0:0:0:0:0:1]": "::1",
    "[::FFFF:7F00:1]": "::ffff:7f00:1",
    "[::ffff:127.0.0.1]": "::ffff:7f00:1",
}

# Texts that are no http(s) URL with one readable host.
INVALID = {
    "http://127.0.0.1\\@example.com/": Reason.URL,
    "http:\\\\127.0.0.1\\": Reason.URL,
    "http://exam\tple.com/": Reason.URL,
    "http://exam\nple.com/": Reason.URL,
    "http://example.com/\r\nHost: other": Reason.URL,
    "http://example.com/\x00": Reason.URL,
    "http://": Reason.URL,
    "http:///path": Reason.URL,
    "http://:80/": Reason.URL,
    "http://user@/": Reason.URL,
    "http://[::1/": Reason.URL,
    "http://::1/": Reason.URL,
    "http://[::1]evil/": Reason.URL,
    "http://evil[::1]/": Reason.URL,
    "http://[[::1]]/": Reason.URL,
    "http://example.com:port/": Reason.URL,
    "http://example.com:-80/": Reason.URL,
    "http://example.com:٨٠/": Reason.URL,
    "http://example.com:123456/": Reason.URL,
    "http://example.com:80:80/": Reason.URL,
    "http://example.com/\ud800": Reason.URL,
    "http://example.com/" + "a" * 8192: Reason.URL,
    "http://a／b/": Reason.URL,  # noqa: RUF001
    "": Reason.SCHEME,
    "example.com/image.png": Reason.SCHEME,
    "//example.com/": Reason.SCHEME,
    "file:///etc/passwd": Reason.SCHEME,
    "ftp://example.com/": Reason.SCHEME,
    "gopher://example.com/_": Reason.SCHEME,
    "data:image/png;base64,AAAA": Reason.SCHEME,
    "javascript:alert(1)": Reason.SCHEME,
    "unix:///run/docker.sock": Reason.SCHEME,
    "http+unix://%2Frun%2Fdocker.sock/": Reason.SCHEME,
    "ws://example.com/": Reason.SCHEME,
    "http://[127.0.0.1]/": Reason.URL,
    "http://[fe80::1%25eth0]/": Reason.URL,
    "http://[fe80::1%eth0]/": Reason.URL,
    "http://[v1.a]/": Reason.URL,
    "http://[]/": Reason.URL,
    "http://256.0.0.1/": Reason.URL,
    "http://4294967296/": Reason.URL,
    "http://1.2.3.4.5/": Reason.URL,
    "http://08.0.0.1/": Reason.URL,
    "http://example.1/": Reason.URL,
    "http://127.0.0.1../": Reason.URL,
    "http://a..b/": Reason.URL,
    "http://./": Reason.URL,
    "http://exa mple.com/": Reason.URL,
    "http://%2531/": Reason.URL,
    "http://a%00b/": Reason.URL,
    "http://a%2Fb/": Reason.URL,
    "http://a%40127.0.0.1/": Reason.URL,
    "http://%ff/": Reason.URL,
    "http://" + "a" * 64 + ".com/": Reason.URL,
    "http://" + "a." * 127 + "com/": Reason.URL,
}
