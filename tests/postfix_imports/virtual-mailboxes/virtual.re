/^anna\+.*@/ anna@club.example
