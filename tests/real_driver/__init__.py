"""Lane 2: the unmodified Linux driver of the INA3221 on an emulated machine."""
