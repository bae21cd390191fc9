# Stands in for python:3.12-slim: Debian with CPython in /usr/local.
FROM localhost/stand-in/debian
ADD python.tar /usr/local
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
RUN ldconfig && python3 -c 'import bz2, ctypes, lzma, readline, sqlite3, ssl, uuid, zlib'
CMD ["python3"]
