/@mail\.example$/     smtp:[10.0.0.7]
/^(.*)@x.*$/          smtp:[10.0.0.8]
