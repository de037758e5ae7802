# OpenSSL, shared: `_ssl` and `_hashlib` use it. Without what a client of TLS 1.2 and 1.3 does not need. It reads
# certificates where Debian's own does, and has no modules: a program of root does not look for some on the node.
./Configure linux-x86_64 shared --prefix=/usr --libdir=lib --openssldir=/usr/lib/ssl \
    no-apps no-docs no-tests no-engine no-legacy no-module no-dtls no-quic no-cmp no-cms no-ts no-srp no-ct no-comp no-gost \
    no-aria no-bf no-camellia no-cast no-idea no-md4 no-mdc2 no-rc2 no-rc4 no-rmd160 no-seed no-sm2 no-sm3 no-sm4 \
    no-whirlpool no-slh-dsa no-ec2m no-ssl3 no-ssl3-method enable-ec_nistp_64_gcc_128
make -j"$JOBS" build_generated
make -j"$JOBS" libcrypto.so.3 libssl.so.3
mkdir -p "$DEST/include" "$DEST/lib"
cp -R include/openssl "$DEST/include/"
cp libcrypto.so.3 libssl.so.3 "$DEST/lib/"
ln -s libcrypto.so.3 "$DEST/lib/libcrypto.so"
ln -s libssl.so.3 "$DEST/lib/libssl.so"
