"""Those who teach: frozen networks that are asked, or the answers they gave before."""
