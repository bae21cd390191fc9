# A minimal Debian, made by debootstrap.
FROM scratch
ADD root.tar /
ENV LANG=C.UTF-8
