"""SMTP in: sessions, access, limits, and the intake that hands accepted mail to the queue."""
