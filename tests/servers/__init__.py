"""Real servers on loopback that answer as DagsHub's stores do; see `standin`."""
