# Installs jars, with what they need at run time, by Maven. A requirement is group:artifact:version.
set -eu
work=/opt/libraries/work
mkdir -p $work
cd $work
{
    echo '<project><modelVersion>4.0.0</modelVersion><groupId>libraries</groupId><artifactId>libraries</artifactId>'
    echo '<version>0</version><dependencies>'
    for text; do
        rest=${text#*:}
        printf '<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n' \
            "${text%%:*}" "${rest%%:*}" "${rest#*:}"
    done
    echo '</dependencies></project>'
} >pom.xml
mvn=mvn
if [ -f /usr/share/maven/bin/mvn ] && [ ! -e /usr/share/maven/bin/m2.conf ]; then
    # Debian's Maven has its settings in /etc, which a sandbox does not see of its host: a home with those that it needs.
    mkdir -p maven/bin maven/conf/logging
    ln -s /usr/share/maven/boot /usr/share/maven/lib maven
    cp /usr/share/maven/bin/mvn maven/bin/mvn
    cat >maven/bin/m2.conf <<'END'
main is org.apache.maven.cli.MavenCli from plexus.core
[plexus.core]
load ${maven.home}/lib/*.jar
END
    mvn=maven/bin/mvn
fi
export MAVEN_OPTS="-XX:+UseSerialGC -Xmx512m"
$mvn -B -q -Dstyle.color=never -Dmaven.repo.local=$work/repository \
    -DincludeScope=runtime -DoutputDirectory=/opt/libraries/jars dependency:copy-dependencies
rm -rf $work
